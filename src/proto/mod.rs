//! The replication protocol as state machines: bytes in, events and bytes out. No sockets, no clock.

pub mod master;
mod request;

//! The replication protocol as pure state machines: bytes in, events and bytes out, never a socket.
//!
//! [`replica`] is our side towards a master that is captured. [`transfer`] splits the RDB payload from what follows.
//! [`mod@line`] reads the lines of a handshake, in both directions. [`master`] is our side towards a server that is
//! restored, which uses us as its master.

pub mod line;
pub mod master;
pub mod replica;
mod request;
pub mod transfer;

//! The replication protocol as pure state machines: bytes in, events and bytes out, never a socket.
//!
//! [`replica`] is our side towards a master that is captured, [`transfer`] splits the RDB payload from what follows,
//! [`mod@line`] is what both directions of a handshake are made of. [`master`] is our side towards a server that is
//! restored: it takes us for its master.

pub mod line;
pub mod master;
pub mod replica;
mod request;
pub mod transfer;

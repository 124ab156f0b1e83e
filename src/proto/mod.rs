//! The replication protocol as pure state machines: bytes in, events and bytes out, never a socket.
//!
//! [`replica`] is our side towards a master that is captured, [`transfer`] splits the RDB payload from what follows,
//! [`line`] is what both directions of a handshake are made of.

pub mod line;
pub mod replica;
pub mod transfer;

//! What goes over the wire: positions in a stream, RESP commands, the replication protocol, RDB. Pure: bytes in, values
//! out; no socket, no clock, no file.

pub mod crc64;
pub mod position;
pub mod psync;
pub mod rdb;
pub mod resp;

/// Slots of a cluster: numbers from 0 on.
pub const SLOTS: u16 = 16_384;

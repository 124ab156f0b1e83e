//! A build without the feature `tls`: whoever asks for TLS is told so. Nothing ever goes out in the clear instead.

use std::io;

use tokio::net::TcpStream;

use super::LinkError;
use super::socket::Stream;
use super::tls_fault::TlsFault;
use crate::config::{ConfigError, Source, Tls, not_built_in};

/// As with the feature, but it always fails.
pub(super) async fn handshake(_: &Source, _: &Tls, _: TcpStream) -> Result<Stream, LinkError> {
    Err(ConfigError::new(not_built_in("TLS", "tls")).into())
}

/// No error of a socket speaks of TLS.
pub(super) fn fault_of(_: &io::Error) -> Option<TlsFault> {
    None
}

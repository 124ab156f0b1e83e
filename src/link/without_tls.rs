//! A build without the feature `tls`: every use of TLS is an error that names the feature. Nothing ever goes out in the
//! clear instead.

/// In place of `tls.rs`.
pub(super) mod client {
    use std::io;

    use tokio::net::TcpStream;

    use crate::config::{ConfigError, Source, Tls, not_built_in};
    use crate::link::socket::Stream;
    use crate::link::{LinkError, TlsFault};

    /// Always fails.
    pub(in crate::link) async fn handshake(
        _: &Source,
        _: &Tls,
        _: TcpStream,
    ) -> Result<Stream, LinkError> {
        Err(ConfigError::new(not_built_in("TLS", "tls")).into())
    }

    /// No error of a socket speaks of TLS.
    pub(in crate::link) fn fault_of(_: &io::Error) -> Option<TlsFault> {
        None
    }
}

/// In place of `tls_accept.rs`.
pub(super) mod server {
    use tokio::net::TcpStream;

    use crate::config::{ConfigError, ListenTls, not_built_in};
    use crate::link::accept::AcceptError;
    use crate::link::socket::Stream;

    /// There is none.
    pub(in crate::link) type ServerConfig = std::convert::Infallible;

    /// Always fails.
    pub(in crate::link) fn server_config(_: &ListenTls) -> Result<ServerConfig, ConfigError> {
        Err(ConfigError::new(not_built_in("TLS", "tls")))
    }

    /// Cannot be called.
    pub(in crate::link) async fn handshake(
        config: ServerConfig,
        _: TcpStream,
    ) -> Result<Stream, AcceptError> {
        match config {}
    }
}

//! Why there is no TLS with a server. Without the feature `tls`, there is never one of these.

/// Why there is no TLS with a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct TlsFault {
    text: String,
    permanent: bool,
}

#[cfg_attr(not(feature = "tls"), allow(dead_code))]
impl TlsFault {
    pub(super) fn permanent(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            permanent: true,
        }
    }

    pub(super) fn passing(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            permanent: false,
        }
    }

    /// Is there no use in trying again without a change?
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }
}

//! Whether a target will speak to us as its master the way that we listen.

use redis_protocol::resp2::types::OwnedFrame;

use crate::link::LinkError;
use crate::link::control::ControlError;
use crate::restore::error::RestoreError;
use crate::restore::server::{ListenOptions, Target, frame_text};

/// A setting of the target.
pub(crate) enum Setting {
    /// Its value.
    Is(String),
    /// The target knows no such setting.
    Unknown,
    /// The target does not let us ask; that is told.
    NotTold,
}

impl Setting {
    pub(crate) fn value(self) -> Option<String> {
        match self {
            Self::Is(value) => Some(value),
            Self::Unknown | Self::NotTold => None,
        }
    }
}

impl Target<'_> {
    /// TLS, user and password.
    pub(crate) async fn check_replication(
        &mut self,
        listen: &ListenOptions,
    ) -> Result<(), RestoreError> {
        let admission = &listen.admission;
        let by_tls = match self.setting("tls-replication").await? {
            Setting::Is(value) => Some(value == "yes"),
            Setting::Unknown => Some(false),
            Setting::NotTold => None,
        };
        match (by_tls, admission.tls.is_some()) {
            (Some(true), false) => {
                return Err(self.refused(
                    "has tls-replication set, so it wants TLS of its master: give backfeed a certificate that it trusts, with \
                     --listen-tls-cert and --listen-tls-key; or CONFIG SET tls-replication no there while the restore runs \
                     (over a network that you trust)",
                ));
            }
            (Some(false), true) => {
                return Err(self.refused(
                    "has tls-replication not set, so it would come without TLS, which --listen-tls-cert demands: CONFIG SET \
                     tls-replication yes there (and tls-ca-cert-file), or leave out --listen-tls-cert and --listen-tls-key",
                ));
            }
            _ => {}
        }
        let password = admission.current_password();
        let Some(password) =
            password.map_err(|error| ControlError::from(LinkError::from(error)))?
        else {
            return Ok(());
        };
        let masterauth = self.setting("masterauth").await?.value();
        if masterauth.is_some_and(|set| set != password.expose()) {
            return Err(self.refused(
                "has another masterauth than the password for this restore: set it there with CONFIG SET masterauth",
            ));
        }
        let Some(user) = &admission.user else {
            return Ok(());
        };
        let masteruser = self.setting("masteruser").await?.value();
        if masteruser.is_some_and(|set| set != *user && !(set.is_empty() && user == "default")) {
            return Err(self.refused(format!(
                "has another masteruser than --listen-user: CONFIG SET masteruser {user} there"
            )));
        }
        Ok(())
    }

    pub(crate) async fn setting(&mut self, name: &str) -> Result<Setting, RestoreError> {
        match self.call(&["CONFIG", "GET", name]).await {
            Ok(OwnedFrame::Array(pair)) => Ok(match pair.get(1).and_then(frame_text) {
                Some(value) => Setting::Is(value),
                None => Setting::Unknown,
            }),
            Ok(_) => Ok(Setting::NotTold),
            Err(error) => self
                .tolerate(error, &format!("its setting `{name}`"))
                .map(|()| Setting::NotTold),
        }
    }
}

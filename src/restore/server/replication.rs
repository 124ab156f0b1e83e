//! Checks that the target's replication settings (TLS, user, password) fit our listener.

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
    /// The target does not permit the question. A note says so.
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
                    "has tls-replication set, so it expects TLS of its master. Give backfeed a certificate that the \
                     server trusts (`listen_tls_cert`, `listen_tls_key`). Or, on a network that you trust, during the \
                     restore: redis-cli CONFIG SET tls-replication no",
                ));
            }
            (Some(false), true) => {
                return Err(self.refused(
                    "has tls-replication not set, so it would connect without TLS, which `listen_tls_cert` requires. \
                     Run there: redis-cli CONFIG SET tls-replication yes (and set tls-ca-cert-file). Or leave out \
                     `listen_tls_cert` and `listen_tls_key`",
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
                "has another masterauth than the password for this restore. Set it there: redis-cli CONFIG SET \
                 masterauth",
            ));
        }
        let Some(user) = &admission.user else {
            return Ok(());
        };
        let masteruser = self.setting("masteruser").await?.value();
        if masteruser.is_some_and(|set| set != *user && !(set.is_empty() && user == "default")) {
            return Err(self.refused(format!(
                "has another masteruser than `listen_user`. Run there: redis-cli CONFIG SET masteruser {user}"
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

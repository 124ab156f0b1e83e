//! A target that loads the snapshot straight from the connection, and does not write it to a file first.
//!
//! Servers do so with `repl-diskless-load on-empty-db`, while they hold nothing. It is not the default: a replica that
//! holds data would lose it before it knows that the new data are sound. An empty replica has nothing to lose. Then the
//! restore does not wait for its disk, and needs no room on it. So we change the setting while the restore runs.

use redis_protocol::resp2::types::OwnedFrame;

use crate::config::Source;
use crate::link::control::{Control, ControlError};
use crate::restore::server::compatibility::Server;
use crate::restore::server::frame_text;

const SETTING: &str = "repl-diskless-load";
/// What is set by default.
const DISABLED: &str = "disabled";
/// The one value of the setting that risks nothing.
const ON_EMPTY: &str = "on-empty-db";

/// Changes the setting, if the server permits it. Redis 6 calls it experimental, so it is not changed there. `true`: it
/// was changed, and has to be [put back](put_back).
pub(crate) async fn set(
    control: &mut Control,
    server: Option<Server>,
    source: &Source,
) -> Result<bool, ControlError> {
    if server.is_none_or(|server| !server.has_redis(7, 0)) {
        return Ok(false);
    }
    let is_default = match control.call(&["CONFIG", "GET", SETTING]).await {
        Ok(OwnedFrame::Array(pair)) => {
            let value = pair.get(1).and_then(frame_text);
            value.is_some_and(|value| value == DISABLED)
        }
        Ok(_) | Err(ControlError::Reply { .. }) => false,
        Err(error) => return Err(error),
    };
    if !is_default {
        return Ok(false);
    }
    match control.call(&["CONFIG", "SET", SETTING, ON_EMPTY]).await {
        Ok(_) => Ok(true),
        Err(error @ ControlError::Reply { .. }) => {
            tracing::debug!(%error, "the target loads from its disk");
            Ok(false)
        }
        Err(error) => {
            // The server may have received the command in spite of the error.
            if let Some(note) = put_back(source).await {
                tracing::warn!("{note}");
            }
            Err(error)
        }
    }
}

/// Makes the setting what it was, on a connection of its own. A note when that fails.
pub(crate) async fn put_back(source: &Source) -> Option<String> {
    let error = async {
        let mut control = Control::connect(source).await?;
        control.call(&["CONFIG", "SET", SETTING, DISABLED]).await
    }
    .await
    .err()?;
    Some(format!(
        "{} may still have {SETTING} {ON_EMPTY}, which this restore had set, and which could not be set back \
         ({error}). Run there: redis-cli CONFIG SET {SETTING} {DISABLED}",
        source.addr()
    ))
}

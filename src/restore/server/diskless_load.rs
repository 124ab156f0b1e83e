//! A target that loads the snapshot straight from the connection, instead of from a file that it writes first.
//!
//! Servers do so with `repl-diskless-load on-empty-db`, while they hold nothing. By default they do not: a replica that holds
//! data would lose it before it knows that the new data is sound. An empty one has nothing to lose, and the restore need not
//! wait for its disk, nor find room on it. So the setting is made for the time of the restore.

use redis_protocol::resp2::types::OwnedFrame;

use crate::config::Source;
use crate::link::control::{Control, ControlError};
use crate::restore::server::compatibility::Server;
use crate::restore::server::frame_text;

const SETTING: &str = "repl-diskless-load";
/// What is set by default.
const DISABLED: &str = "disabled";
/// Of the settings the one that risks nothing.
const ON_EMPTY: &str = "on-empty-db";

/// Sets it, if the server lets us. Redis 6 calls it experimental, and there it is left alone. `true`: it was changed, and has to
/// be [put back](put_back).
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
            // It may have heard all the same.
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
        "{} may have {SETTING} {ON_EMPTY} now, which was set for the restore and could not be put back: CONFIG SET {SETTING} {DISABLED} \
         there ({error})",
        source.addr()
    ))
}

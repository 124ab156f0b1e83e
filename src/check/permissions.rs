//! Whether a user may run a command, found out without running it where that would change something.

use redis_protocol::resp2::types::OwnedFrame;

use crate::config::Source;
use crate::link::control::{Control, ControlError};
use crate::link::replication_info::Facts;

/// May the user run it?
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Permission {
    /// Yes. How that was found out.
    Granted(&'static str),
    /// No, or the server does not know the command: what it said.
    Denied(String),
    /// It could not be tried, and why.
    Unknown(String),
}

impl Permission {
    /// By an error that the server answered. One that is about something else (it is loading, say) tells nothing.
    fn of(answer: &ControlError) -> Self {
        match answer.is_permission() || answer.is_unknown_command() {
            true => Self::Denied(answer.to_string()),
            false => Self::Unknown(answer.to_string()),
        }
    }

    fn unknown(why: &str) -> Self {
        Self::Unknown(why.to_owned())
    }
}

/// A command that changes nothing is run.
pub(super) async fn harmless(
    control: &mut Control,
    command: &[&str],
) -> Result<Permission, ControlError> {
    match control.call(command).await {
        Ok(_) => Ok(Permission::Granted("it was run")),
        Err(error @ ControlError::Link(_)) => Err(error),
        Err(error) => Ok(Permission::of(&error)),
    }
}

/// `PSYNC`: Redis 7.0 and newer say it (`ACL DRYRUN`), if this is permitted. Others are asked to continue at the end of their
/// feed, which costs them nothing, and the link is closed at once.
pub(super) async fn psync(
    control: &mut Control,
    source: &Source,
    facts: Option<&Facts>,
) -> Result<Permission, ControlError> {
    if let Some(said) = dry_run(control, &["PSYNC", "?", "-1"]).await? {
        return Ok(said);
    }
    let Some(facts) = facts else {
        return Ok(Permission::unknown(
            "INFO is not permitted, so it cannot be tried without a full sync",
        ));
    };
    let position = facts.position().filter(|_| facts.backlog_first.is_some());
    let Some(position) = position else {
        return Ok(Permission::unknown(
            "the server has no backlog, so it cannot be tried without a full sync",
        ));
    };
    let mut link = Control::connect(source).await?;
    let next = position.offset.next_byte().to_string();
    harmless(&mut link, &["PSYNC", position.history.as_str(), &next]).await
}

/// A command that must not be run: it is put into a transaction, which is discarded.
pub(super) async fn queued(
    control: &mut Control,
    command: &[&str],
) -> Result<Permission, ControlError> {
    if let Some(said) = dry_run(control, command).await? {
        return Ok(said);
    }
    // Unless the transaction has begun, the command would be run.
    match control.call(&["MULTI"]).await {
        Ok(OwnedFrame::SimpleString(text)) if text.as_slice() == b"OK" => {}
        Ok(_) => return Ok(Permission::unknown("MULTI did not begin a transaction")),
        Err(error @ ControlError::Link(_)) => return Err(error),
        Err(error) => return Ok(Permission::Unknown(error.to_string())),
    }
    let answer = control.call(command).await;
    let ended = control.call(&["DISCARD"]).await;
    if let Err(error @ ControlError::Link(_)) = ended {
        return Err(error);
    }
    match answer {
        Ok(OwnedFrame::SimpleString(text)) if text.as_slice() == b"QUEUED" => Ok(
            Permission::Granted("it was put into a transaction that was discarded"),
        ),
        Ok(_) => Ok(Permission::unknown(
            "the server did not put it into a transaction",
        )),
        Err(error @ ControlError::Link(_)) => Err(error),
        Err(error) => Ok(Permission::of(&error)),
    }
}

/// None: the server cannot say it, or the user may not ask.
async fn dry_run(
    control: &mut Control,
    command: &[&str],
) -> Result<Option<Permission>, ControlError> {
    let user = match control.text(&["ACL", "WHOAMI"]).await {
        Ok(user) => user,
        Err(error @ ControlError::Link(_)) => return Err(error),
        Err(_) => return Ok(None),
    };
    let words = [&["ACL", "DRYRUN", &user], command].concat();
    match control.text(&words).await {
        Ok(answer) if answer == "OK" => Ok(Some(Permission::Granted("ACL DRYRUN says so"))),
        Ok(answer) => Ok(Some(Permission::Denied(answer))),
        Err(error @ ControlError::Link(_)) => Err(error),
        // `Command 'psync' not found`: it was renamed.
        Err(ControlError::Reply { text, .. }) if text.contains("not found") => {
            Ok(Some(Permission::Denied(text)))
        }
        Err(_) => Ok(None),
    }
}

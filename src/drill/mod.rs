//! `drill`: proves that a restore works, on a server that is started for it and thrown away.
//!
//! ```text
//! archive ──base, then the log replayed──▶ first server   ┐
//! archive ──base and log made one RDB────▶ second server  ┴─ every key and value is compared
//! ```
//!
//! The two ways have little in common: the first server applies the log itself, and the second one loads what was applied
//! here. Without a server, the RDB is read by two readers.

mod compare;
mod read;
mod scratch_server;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::archive::{Archive, ArchiveError, DrillDoc, FORMAT, new_writer};
use crate::config::{Dest, ServeLog};
use crate::link::control::{Control, ControlError};
use crate::rebuild::RebuildError;
use crate::recovery::{Progress, RecoveryTarget};
use crate::restore::{self, AofLayout, ListenOptions, RestoreError};
use crate::runtime;
use crate::wire::position::{Offset, Position, ReplId};

pub use compare::Difference;
use scratch_server::ScratchServer;
pub use scratch_server::{ServerProgram, StartError};

/// What to try.
#[derive(Debug)]
pub struct Request {
    /// Which point.
    pub recovery_target: RecoveryTarget,
    /// Which history. None: the latest one.
    pub history: Option<ReplId>,
    /// The server to start. None: none is there, so an RDB is made and read.
    pub server: Option<ServerProgram>,
    /// Where servers and files are put. It is emptied.
    pub dir: PathBuf,
    /// Bytes of memory for the keys that the log touches, at most.
    pub memory_limit: usize,
    /// The time, Unix milliseconds.
    pub now_unix_ms: i64,
}

/// How far values were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compared {
    /// Every key with its value, and when it expires, on two servers (`DEBUG DIGEST`), the groups of streams, and the functions.
    All,
    /// Nothing: the server took all that it was given, and refused no command. What must be there in the end is not known.
    Nothing,
    /// There was no server: each value was read.
    Read,
}

impl Compared {
    /// As in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Nothing => "nothing",
            Self::Read => "read",
        }
    }
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was restored.
    pub restore: restore::Report,
    /// The server that was started, with its version. None: there was none.
    pub server: Option<String>,
    /// How long it took until the server held the data and took writes, in milliseconds.
    pub restore_ms: u64,
    /// How far values were compared.
    pub compared: Compared,
    /// Why not further.
    pub compared_why: Option<String>,
    /// Keys that differ, the first of them. A drill without any has passed.
    pub differences: Vec<Difference>,
    /// All keys that differ.
    pub different_keys: u64,
}

/// It could not be tried, or the restore failed.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The restore failed.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The server does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server does not answer.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The RDB cannot be read, or holds something else.
    #[error("the RDB that was made of the archive is not right: {0}")]
    Rdb(String),
}

/// Tries a restore.
///
/// # Errors
/// [`DrillError`]. Keys that differ are no error, but a finding: [`Report::differences`].
pub async fn drill(
    archive: &Archive,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Report, DrillError> {
    match &request.server {
        Some(program) => on_servers(archive, request, program, progress).await,
        None => by_reading(archive, request, progress).await,
    }
}

async fn on_servers(
    archive: &Archive,
    request: &Request,
    program: &ServerProgram,
    progress: &dyn Progress,
) -> Result<Report, DrillError> {
    let first = ScratchServer::start(program, &request.dir.join("first")).await?;
    let begun = Instant::now();
    let target = Dest::Server(first.source().clone());
    let asked = restoring(request, target, ServeLog::Replay);
    let restored = restore::restore(archive, &asked, progress).await?;
    let restore_ms = elapsed_ms(begun.elapsed());
    let mut report = Report {
        server: Some(first.version().to_owned()),
        restore: restored,
        restore_ms,
        compared: Compared::Nothing,
        compared_why: None,
        differences: Vec::new(),
        different_keys: 0,
    };
    // The same point, however much is stored since.
    let same = Request {
        recovery_target: RecoveryTarget::Offset(report.restore.end_offset),
        history: Some(report.restore.history),
        dir: request.dir.clone(),
        server: None,
        ..*request
    };
    let second_dir = request.dir.join("second");
    let rdb = ScratchServer::data_file(&second_dir)?;
    let asked = restoring(&same, Dest::RdbFile(rdb), ServeLog::Auto);
    match restore::restore(archive, &asked, progress).await {
        Ok(made) => {
            let second = ScratchServer::start(program, &second_dir).await?;
            let mut servers = [
                Control::connect(first.source()).await?,
                Control::connect(second.source()).await?,
            ];
            let found = compare::compare(&mut servers).await?;
            second.stop().await;
            report.compared = Compared::All;
            report.different_keys = found.count;
            report.differences = found.first;
            let is_same = sum(&made.keys) == sum(&report.restore.keys);
            if !is_same && made.notes.is_empty() {
                // They may expire between the two.
                let text = "the numbers of keys differ by those that expired meanwhile";
                report.restore.notes.push(text.to_owned());
            }
        }
        Err(
            error @ (RestoreError::NotASnapshot { .. }
            | RestoreError::Rebuild(RebuildError::Memory { .. })),
        ) => report.compared_why = Some(error.to_string()),
        Err(error) => return Err(error.into()),
    }
    first.stop().await;
    Ok(report)
}

/// Makes an RDB, and has it read by two readers.
async fn by_reading(
    archive: &Archive,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Report, DrillError> {
    let path = ScratchServer::data_file(&request.dir)?;
    let begun = Instant::now();
    let asked = restoring(request, Dest::RdbFile(path.clone()), ServeLog::Auto);
    let made = restore::restore(archive, &asked, progress).await?;
    let restore_ms = elapsed_ms(begun.elapsed());
    let why = read::read(&path, &made).await?;
    Ok(Report {
        restore: made,
        server: None,
        restore_ms,
        compared: Compared::Read,
        compared_why: why,
        differences: Vec::new(),
        different_keys: 0,
    })
}

fn restoring(request: &Request, target: Dest, serve_log: ServeLog) -> restore::Request {
    restore::Request {
        target,
        recovery_target: request.recovery_target,
        history: request.history,
        service: None,
        force: false,
        dry_run: false,
        continue_history: false,
        aof_layout: AofLayout::default(),
        memory_limit: request.memory_limit,
        serve_log,
        listen: ListenOptions::default(),
        fork_id: ReplId::from_random(runtime::random_bytes()),
        writer: new_writer("drill"),
        now_unix_ms: request.now_unix_ms,
    }
}

/// Records beside the base what came of a drill.
///
/// # Errors
/// [`ArchiveError`], of the store.
pub async fn record(
    archive: &Archive,
    report: &Report,
    writer: &str,
    now_unix_ms: i64,
) -> Result<(), ArchiveError> {
    let restore = &report.restore;
    let doc = DrillDoc {
        format: FORMAT,
        history: restore.base_history,
        offset: Offset(restore.base_offset),
        point: Position {
            history: restore.end_history,
            offset: Offset(restore.end_offset),
        },
        as_of_unix_ms: restore.end_unix_ms,
        passed: report.different_keys == 0,
        compared: report.compared.as_str().to_owned(),
        compared_why: report.compared_why.clone(),
        server: report.server.clone(),
        keys: sum(&restore.keys),
        different_keys: report.different_keys,
        restore_ms: report.restore_ms,
        writer: writer.to_owned(),
        drilled_unix_ms: now_unix_ms,
    };
    archive.commit_drill(&doc).await
}

fn sum(keys: &BTreeMap<u32, u64>) -> u64 {
    keys.values().copied().fold(0, u64::saturating_add)
}

fn elapsed_ms(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

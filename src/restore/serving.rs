//! How the log after a base reaches a server.
//!
//! ```text
//! replay    base ────────────────▶ the server loads it    log ──▶ the server executes each command
//! rebuild   base + log ──▶ one RDB at the end of the log ──▶ the server loads it
//! ```
//!
//! Both lead to the same data at the same offset. A server executes commands on one thread. Here the commands that touch
//! the same key are applied to it one after the other, and the server gets only what becomes of it. The untouched keys
//! pass from the base to the server while it loads.
//!
//! Nothing is written to a disk. Memory is that of a new base ([`crate::rebuild`]). What cannot be rebuilt is replayed.

use serde::Serialize;

use super::error::RestoreError;
use super::master::error::{Phase, ServeError};
use super::master::{Identity, Offer, Payload, may_continue, may_follow, offer};
use super::second_look::second_look;
use super::server::compatibility::{Server, parse_magic};
use crate::archive::{Archive, BaseManifest, ServerInfo};
use crate::config::{ServeLog, Size};
use crate::rebuild::{self, Limits, RebuildError, Stand, Stop, Survey};
use crate::recovery::content::source;
use crate::recovery::expected_keys::Count;
use crate::recovery::plan::Plan;
use crate::wire::position::Position;

/// A server executes so many bytes of log in a few hundredths of a second: nothing is gained.
const LOG_MIN: u64 = 1 << 20;
/// A log is rebuilt if the base has at most so many bytes for each byte of it. Measured down to a fourteenth of the base, a rebuild
/// was never slower (docs/figures.md). With less log there is nothing to gain, and it reads each record of the base.
const BASE_BYTES_FOR_EACH: u64 = 20;

/// Which way the log of a plan takes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// In which form a server gets it.
    pub form: WayForm,
    /// The reason, for an operator.
    pub why: String,
}

/// In which form a server gets a log. The names are part of the interface (`--json`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WayForm {
    /// Its commands follow the base.
    Replayed,
    /// It was applied to the base. The server gets one RDB.
    Rebuilt,
}

impl Way {
    fn replayed(why: impl Into<String>) -> Self {
        Self {
            form: WayForm::Replayed,
            why: why.into(),
        }
    }

    fn rebuilt(why: impl Into<String>) -> Self {
        Self {
            form: WayForm::Rebuilt,
            why: why.into(),
        }
    }

    /// Does the server get one RDB?
    #[must_use]
    pub fn is_rebuilt(&self) -> bool {
        self.form == WayForm::Rebuilt
    }

    /// What sizes and settings say, before the log is read. `needed`: the log cannot be served in its own form.
    #[must_use]
    pub fn by_size(asked: ServeLog, base_bytes: u64, log_bytes: u64, needed: bool) -> Self {
        let (base, log) = (Size(base_bytes), Size(log_bytes));
        match asked {
            _ if log_bytes == 0 => Self::replayed("there is no log after the snapshot"),
            ServeLog::Replay => Self::replayed("this was asked for"),
            ServeLog::Rebuild => Self::rebuilt("this was asked for"),
            ServeLog::Auto if needed => Self::rebuilt("the log holds relative expiries"),
            ServeLog::Auto if log_bytes < LOG_MIN => {
                Self::replayed(format!("the log is short ({log})"))
            }
            ServeLog::Auto if log_bytes.saturating_mul(BASE_BYTES_FOR_EACH) < base_bytes => {
                Self::replayed(format!(
                    "the log ({log}) is short beside the snapshot ({base})"
                ))
            }
            ServeLog::Auto => Self::rebuilt(format!("the log has {log}, the snapshot {base}")),
        }
    }
}

/// Offers a plan to a server, as often as it comes.
pub struct Serving {
    archive: Archive,
    asked: ServeLog,
    /// Bytes of memory for the keys that the log touches, at most.
    memory: usize,
    /// The server that gets it, as far as it is known.
    target: Option<Server>,
    /// The newest `REDISnnnn` that those load who wrote base and log.
    written: Option<u32>,
    /// What came of earlier tries.
    failed: Option<Failed>,
    decided: Option<Decided>,
}

/// A plan that was given to a server as one RDB, in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    end: Position,
    /// How often a server left while it loaded the RDB.
    left: u32,
    /// Why it is not repeated.
    why: Option<String>,
}

/// A server that leaves so often while it loads the RDB gets the log as commands.
const LEFT_MAX: u32 = 2;

struct Decided {
    /// Of the plan: the same end has another answer with another base.
    plan: (Position, Position),
    way: Way,
    /// For the next server that comes.
    survey: Option<Survey>,
    /// Why it cannot be rebuilt. Then it cannot be counted either.
    stop: Option<String>,
}

impl Serving {
    /// `memory`: bytes for the keys that the log touches, at most.
    #[must_use]
    pub fn new(archive: &Archive, asked: ServeLog, memory: usize) -> Self {
        Self {
            archive: archive.clone(),
            asked,
            memory,
            target: None,
            written: None,
            failed: None,
            decided: None,
        }
    }

    /// The same for a server, if it says what it is. `writers`: who wrote base and log.
    #[must_use]
    pub(crate) fn to(mut self, target: Option<Server>, writers: &[ServerInfo]) -> Self {
        let named = |writer: &ServerInfo| Server::named(&writer.flavour, &writer.version);
        let formats = writers.iter().filter_map(named);
        self.target = target;
        self.written = formats.filter_map(|writer| writer.redis_format()).max();
        self
    }

    /// The least version of a rebuilt RDB. What newer servers wrote has no place in a base of an older version: the empty base of
    /// a sidecar, or that of a server before its upgrade. Err: the server does not load the version that is needed.
    fn least_version(&self, base: &BaseManifest) -> Result<Option<u32>, String> {
        let (Some(written), Some(("REDIS", stored))) = (self.written, parse_magic(&base.rdb_magic))
        else {
            return Ok(None);
        };
        if written <= stored {
            return Ok(None);
        }
        let loads = self.target.and_then(|target| target.redis_format());
        if loads.is_some_and(|loads| written <= loads) {
            return Ok(Some(written));
        }
        Err(format!(
            "the log was written by a server of format REDIS{written:04}, and the server is not known to load that"
        ))
    }

    /// The same, after earlier tries.
    #[must_use]
    pub fn after(mut self, failed: Option<Failed>) -> Self {
        self.failed = failed;
        self
    }

    /// Counts the keys of a plan when it is replayed ([`Self::offer`] begins it), or when somebody waits for the number. What is
    /// rebuilt is counted while it is made.
    #[must_use]
    pub fn count(&self, plan: &Plan) -> Count {
        Count::when_asked(&self.archive, plan, self.memory)
    }

    fn by_size(&self, plan: &Plan, needed: bool) -> Way {
        let failed = self.failed.as_ref();
        let failed = failed.filter(|failed| failed.end == plan.end_position);
        if let Some(why) = failed.and_then(|failed| failed.why.as_ref()) {
            return Way::replayed(format!("it could not be rebuilt: {why}"));
        }
        let way = Way::by_size(self.asked, plan.bytes_base(), plan.bytes_log(), needed);
        match is_carried(&plan.base).and_then(|()| self.least_version(&plan.base).map(drop)) {
            Err(why) if way.is_rebuilt() => Way::replayed(format!("it cannot be rebuilt: {why}")),
            _ => way,
        }
    }

    /// Which way the log of `plan` takes. `needed`: it cannot be served in its own form. What the log touches is looked at once.
    ///
    /// # Errors
    /// The store's. A log that cannot be rebuilt is no error.
    pub async fn decide(&mut self, plan: &Plan, needed: bool) -> Result<&Way, RestoreError> {
        let known = self.decided.take();
        let decided = match known.filter(|known| known.plan == Decided::of(plan)) {
            Some(known) => known,
            None => self.judged(plan, needed).await?,
        };
        Ok(&self.decided.insert(decided).way)
    }

    async fn judged(&self, plan: &Plan, needed: bool) -> Result<Decided, RestoreError> {
        let mut decided = Decided {
            plan: Decided::of(plan),
            way: self.by_size(plan, needed),
            survey: None,
            stop: None,
        };
        if decided.way.is_rebuilt() {
            match self.survey(plan).await? {
                Ok(survey) => decided.survey = Some(survey),
                Err(why) => {
                    decided.way = Way::replayed(format!("it cannot be rebuilt: {why}"));
                    decided.stop = Some(why);
                }
            }
        }
        Ok(decided)
    }

    /// What the log touches, or why it cannot be applied to its end.
    async fn survey(&self, plan: &Plan) -> Result<Result<Survey, String>, RestoreError> {
        let surveyed = rebuild::survey(&source(&self.archive, plan), self.limits()).await;
        let survey = match surveyed {
            Ok(survey) => survey,
            Err(error) if is_of_the_store(&error) => return Err(error.into()),
            Err(error) => return Ok(Err(error.to_string())),
        };
        Ok(match &survey.stop {
            Some(why @ Stop::Memory) => Err(format!("{why} ({} bytes)", self.memory)),
            Some(why) => Err(why.to_string()),
            None if survey.end.offset != plan.end.offset => {
                Err("the log ends within a transaction".to_owned())
            }
            None => Ok(survey),
        })
    }

    fn limits(&self) -> Limits {
        Limits {
            memory: self.memory,
            log: u64::MAX,
        }
    }

    /// What to give a server under `identity`. `takes_marks`: it loads an RDB whose length it is not told. If the log is replayed,
    /// its keys are counted from now on.
    ///
    /// # Errors
    /// [`RestoreError::CannotContinue`], and the store's.
    pub async fn offer(
        &mut self,
        plan: &Plan,
        identity: Identity,
        takes_marks: bool,
        count: &mut Count,
    ) -> Result<Offer, RestoreError> {
        let needed = plan.relative_ttls && !matches!(identity, Identity::Fork { .. });
        self.decide(plan, needed).await?;
        if !takes_marks && self.way().is_some_and(Way::is_rebuilt) {
            let why = "the server takes no snapshot of unknown length (`capa eof`)";
            self.replay_from_now_on(plan, why);
        }
        let survey = match &mut self.decided {
            Some(decided) if decided.way.is_rebuilt() => decided.survey.take(),
            decided => {
                let stop = decided.as_ref().and_then(|decided| decided.stop.clone());
                match stop {
                    Some(why) => *count = Count::unknown(why),
                    None => count.begin(),
                }
                return offer(&self.archive, plan, identity).await;
            }
        };
        let survey = match survey {
            Some(survey) => Ok(survey),
            // One server was given it, and has left.
            None => self.survey(plan).await?,
        };
        match survey {
            Ok(survey) => self.rebuilt(plan, identity, survey),
            Err(why) => {
                self.replay_from_now_on(plan, &why);
                *count = Count::unknown(why);
                offer(&self.archive, plan, identity).await
            }
        }
    }

    fn rebuilt(
        &self,
        plan: &Plan,
        identity: Identity,
        survey: Survey,
    ) -> Result<Offer, RestoreError> {
        let (id, stand, may_add) = match identity {
            Identity::Continue { id } => {
                may_continue(plan, id, true)?;
                (id, Stand::At(id), false)
            }
            Identity::Follow { id, history } => {
                may_follow(plan, history, true)?;
                (id, Stand::At(id), false)
            }
            Identity::Fork { id } => (id, Stand::Nowhere, true),
        };
        let mut source = source(&self.archive, plan);
        source.least_version = self.least_version(&plan.base).unwrap_or(None);
        let (snapshot, counts) = rebuild::write_served(source, survey, stand, self.limits());
        let (snapshot, counts) = second_look(snapshot, counts);
        Ok(Offer {
            id,
            offset: plan.end.offset,
            payload: Payload::Rebuilt {
                about: plan.bytes_base(),
                snapshot,
                counts,
            },
            may_add,
        })
    }

    fn replay_from_now_on(&mut self, plan: &Plan, why: &str) {
        self.failed = Some(Failed {
            end: plan.end_position,
            left: 0,
            why: Some(why.to_owned()),
        });
        self.decided = Some(Decided {
            plan: Decided::of(plan),
            way: Way::replayed(format!("it could not be rebuilt: {why}")),
            survey: None,
            stop: None,
        });
    }

    /// Serving failed. Was it because the log cannot be rebuilt, which shows only when it is applied? Or does the server leave each
    /// time while it loads the RDB? Then it is replayed the next time.
    pub fn falls_back(&mut self, plan: &Plan, error: &ServeError) -> bool {
        let content = match error {
            ServeError::Content(content) => content,
            ServeError::Closed(phase)
            | ServeError::Broken { phase, .. }
            | ServeError::Stalled { phase, .. } => return self.has_left(plan, *phase),
            _ => return false,
        };
        let RestoreError::Rebuild(error) = &**content else {
            return false;
        };
        if is_of_the_store(error) {
            return false;
        }
        tracing::warn!(%error, "the log is replayed, because base and log cannot be made one RDB");
        self.replay_from_now_on(plan, &error.to_string());
        true
    }

    /// It may be that it cannot load the RDB, and says so in its own log alone.
    fn has_left(&mut self, plan: &Plan, phase: Phase) -> bool {
        let is_loading = matches!(phase, Phase::Snapshot | Phase::Applying);
        if !is_loading || !self.way().is_some_and(Way::is_rebuilt) {
            return false;
        }
        let end = plan.end_position;
        let before = self.failed.take().filter(|failed| failed.end == end);
        let left = before.map_or(1, |before| before.left.saturating_add(1));
        if left >= LEFT_MAX {
            let why = "the server left twice while it loaded the RDB";
            tracing::warn!("the log is replayed, because {why}. The log of the server may say why");
            self.replay_from_now_on(plan, why);
            return true;
        }
        self.failed = Some(Failed {
            end,
            left,
            why: None,
        });
        false
    }

    /// What came of the tries until now.
    #[must_use]
    pub fn failed(&self) -> Option<Failed> {
        self.failed.clone()
    }

    /// The way that was taken. None: nothing was offered yet.
    #[must_use]
    pub fn way(&self) -> Option<&Way> {
        self.decided.as_ref().map(|decided| &decided.way)
    }
}

impl Decided {
    fn of(plan: &Plan) -> (Position, Position) {
        (plan.end_position, plan.base.position())
    }
}

/// Can a snapshot be carried into a new one, as far as its manifest tells?
fn is_carried(base: &BaseManifest) -> Result<(), String> {
    let why = if base.unwalked_from.is_some() {
        "the snapshot holds something that this version of backfeed does not know"
    } else if base.server.flavour == "keydb" {
        "the snapshot has data of KeyDB beside its keys"
    } else {
        return Ok(());
    };
    Err(why.to_owned())
}

/// Did the store fail, or the process end, so that another try may succeed?
fn is_of_the_store(error: &RebuildError) -> bool {
    matches!(
        error,
        RebuildError::Archive(_) | RebuildError::Interrupted(_)
    )
}

#[cfg(test)]
#[path = "serving_tests.rs"]
mod tests;

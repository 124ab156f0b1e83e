//! Follows the log in the store: finds which history is the latest, and reads what it grows by.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, sleep};

use super::StandbyConfig;
use super::line::Line;
use super::tail::Tail;
use super::view::StandbyStatus;
use crate::archive::{Archive, ArchiveError, ChainItem};
use crate::capture::Clock;
use crate::log::segment::{Entry, SegmentHeader};
use crate::recovery::{self, BadBases, RecoveryError, RecoveryTarget};
use crate::runtime::backoff::Backoff;
use crate::wire::position::{Offset, ReplId};

/// How often it is looked which history is the latest. A seal is looked behind at once.
const LOOK: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Follower {
    archive: Archive,
    named: Option<ReplId>,
    delay: Duration,
    poll: Duration,
    clock: Clock,
    tail: Arc<Tail>,
    status: StandbyStatus,
    /// The object that has the next byte, as far as it is known.
    header: Option<SegmentHeader>,
    looked: Option<Instant>,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There may be more.
    Moved,
    /// There is nothing more now.
    Idle,
    /// The history was sealed. Another one goes on from it, or will.
    Sealed,
}

impl Follower {
    pub(super) fn new(
        archive: Archive,
        config: &StandbyConfig,
        clock: Clock,
        tail: &Arc<Tail>,
        status: &StandbyStatus,
    ) -> Self {
        status.delays(u64::try_from(config.delay.as_millis()).unwrap_or(u64::MAX));
        Self {
            archive,
            named: config.history,
            delay: config.delay,
            poll: config.poll,
            clock,
            tail: Arc::clone(tail),
            status: status.clone(),
            header: None,
            looked: None,
        }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut pauses = Backoff::exact(self.poll, PAUSE_MAX.max(self.poll));
        loop {
            match self.step().await {
                Ok(step) => {
                    pauses = Backoff::exact(self.poll, PAUSE_MAX.max(self.poll));
                    self.status.works();
                    match step {
                        Step::Moved => continue,
                        Step::Sealed => self.looked = None,
                        Step::Idle => {}
                    }
                    sleep(self.poll).await;
                }
                Err(error) => {
                    let text = error.to_string();
                    if self.status.fails(text.clone(), (self.clock)()) {
                        tracing::warn!(
                            "the store cannot be followed: {text}. Replicas keep what they have; retrying"
                        );
                    }
                    self.header = None;
                    self.looked = None;
                    sleep(pauses.pause()).await;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Step, RecoveryError> {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            self.look().await?;
            self.looked = Some(Instant::now());
        }
        let Some(line) = self.tail.line() else {
            return Ok(Step::Idle);
        };
        Ok(self.read(&line).await?)
    }

    /// Which history is the latest, and where replicas are to be.
    async fn look(&mut self) -> Result<(), RecoveryError> {
        let mut catalog = self.archive.outline().await?;
        let tip = recovery::choose(&self.archive, &catalog, self.named, None)?;
        let before = self.tail.line();
        if before.as_ref().is_some_and(|line| line.tip() == tip) {
            return Ok(());
        }
        self.archive
            .load(&mut catalog, tip, Offset(u64::MAX))
            .await?;
        let stretches = catalog.lineage(tip)?;
        let left = before.as_ref().and_then(|line| {
            let shared = stretches.iter().find(|at| at.history == line.tip());
            shared.map(|at| at.offset.min(line.end))
        });
        let begin = match (left, &before) {
            (Some(left), _) => left,
            // What replicas may not have yet of the old one comes first, and then what takes its place.
            (None, Some(line)) if !self.delay.is_zero() => {
                let is_read = line.end >= line.stored;
                match self.begin(tip).await {
                    Ok(begin) if is_read => begin,
                    Err(RecoveryError::Archive(error)) => return Err(error.into()),
                    Ok(_) | Err(_) => return Ok(()),
                }
            }
            (None, _) => self.begin(tip).await?,
        };
        if left.is_none() && before.is_some() {
            tracing::warn!(
                history = %tip,
                "the latest history does not go on from the one that was followed: replicas are given its data in place of what \
                 they have. The old history stays in the store"
            );
        }
        let Some(line) = Line::new(stretches, catalog.aliases(), begin) else {
            return Ok(());
        };
        tracing::info!(history = %tip, at = %begin, "following this history");
        self.header = None;
        self.tail.begin_at(tip, begin);
        self.publish(line);
        Ok(())
    }

    /// Where a history is followed from, of which nothing is known: its end, or what it was some time ago.
    async fn begin(&self, tip: ReplId) -> Result<Offset, RecoveryError> {
        let target = match self.delay.is_zero() {
            true => RecoveryTarget::Latest,
            false => RecoveryTarget::AtUnixMs(self.due_unix_ms()),
        };
        let (catalog, history) = recovery::look(&self.archive, Some(tip), None, target).await?;
        let none_bad = BadBases::new();
        let plan = recovery::plan(&self.archive, &catalog, history, target, &none_bad).await?;
        Ok(plan.end.offset)
    }

    /// What was received until then may be given.
    fn due_unix_ms(&self) -> i64 {
        let delay = i64::try_from(self.delay.as_millis()).unwrap_or(i64::MAX);
        (self.clock)().saturating_sub(delay)
    }

    /// Reads what replicas may have next.
    async fn read(&mut self, line: &Arc<Line>) -> Result<Step, ArchiveError> {
        let at = line.end;
        let (history, left) = line.after(at);
        let known = self.header.take();
        let known = known.filter(|header| header.meta.history == history && header.meta.end > at);
        let header = match known {
            Some(header) => header,
            None => match self.find(history, at).await? {
                Some(Entry::Segment(header)) => header,
                Some(Entry::Seal(_)) => return Ok(Step::Sealed),
                None => return Ok(Step::Idle),
            },
        };
        let mut next = Line::clone(line);
        let last = header.meta.marks.last();
        let end = header.meta.end.min(left);
        next.stored = next.stored.max(end);
        next.stored_unix_ms = last.map(|mark| mark.unix_ms).or(next.stored_unix_ms);
        if header.is_gap() && !self.is_gap_due(history, end).await? {
            self.header = Some(header);
            self.publish_stored(line, next);
            return Ok(Step::Idle);
        }
        if header.is_gap() {
            // Nobody has these bytes. Replicas that are before them begin anew.
            self.tail.begin_at(line.tip(), end);
            next.end = end;
            self.publish(next);
            return Ok(Step::Moved);
        }
        let (goal, goal_unix_ms) = match self.delay.is_zero() {
            true => (end, last.map(|mark| mark.unix_ms)),
            false => {
                let due = self.due_unix_ms();
                let mut marks = header.meta.marks.iter().rev();
                let mark = marks.find(|mark| mark.unix_ms <= due);
                (
                    mark.map_or(at, |mark| mark.offset.min(end)),
                    mark.map(|mark| mark.unix_ms),
                )
            }
        };
        if goal <= at {
            self.header = Some(header);
            self.publish_stored(line, next);
            return Ok(Step::Idle);
        }
        self.tail.begin_at(line.tip(), at);
        let mut bytes = self.archive.read_part(&header, at, goal).await?;
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk?;
            next.end = next.end.plus(chunk.len() as u64);
            self.tail.push(chunk);
            self.publish(next.clone());
        }
        if next.end < goal {
            return Err(ArchiveError::Missing {
                object: format!("the log of history {history} after offset {}", next.end),
            });
        }
        next.end_unix_ms = goal_unix_ms.or(next.end_unix_ms);
        self.publish(next);
        self.header = Some(header);
        Ok(Step::Moved)
    }

    /// May replicas have what comes after a gap? With a delay, when the first bytes after it are old enough.
    async fn is_gap_due(&self, history: ReplId, end: Offset) -> Result<bool, ArchiveError> {
        if self.delay.is_zero() {
            return Ok(true);
        }
        // It may have been merged by now.
        let after = self.find(history, end).await?;
        let Some(Entry::Segment(after)) = after else {
            return Ok(false);
        };
        let first = after.meta.marks.first();
        Ok(first.is_some_and(|mark| mark.unix_ms <= self.due_unix_ms()))
    }

    fn publish(&self, line: Line) {
        let line = Arc::new(line);
        self.status.follows(&line);
        self.tail.follow(line);
    }

    fn publish_stored(&self, before: &Arc<Line>, line: Line) {
        if **before != line {
            self.publish(line);
        }
    }

    /// The object that has the byte after `at`.
    async fn find(&self, history: ReplId, at: Offset) -> Result<Option<Entry>, ArchiveError> {
        // It may begin before, or be in a span. That is listed, and so not asked each time.
        let is_due = self
            .looked
            .is_none_or(|looked| looked.elapsed() < self.poll);
        if let Some(entry) = self.archive.entry(history, at.next_byte()).await? {
            return Ok(Some(entry));
        }
        if !is_due {
            return Ok(None);
        }
        let catalog = self.archive.only(history).await?;
        let mut chain = self.archive.chain(&catalog, history, at);
        match chain.next().await {
            Some(Ok(ChainItem::Segment(header))) if header.meta.end > at => {
                Ok(Some(Entry::Segment(header)))
            }
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => Ok(None),
        }
    }
}

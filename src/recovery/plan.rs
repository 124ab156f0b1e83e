//! What a restore consists of: which base, which pieces of which segments, and where exactly it ends.
//!
//! ```text
//! lineage   root ────────────▶ left at N ─ child ─────────▶ goal
//! base            ▲ the newest at or below the goal
//! pieces          [skip|────][──────][──|] [──────][───|cut]      end = last boundary ≤ goal
//! ```

mod expired;
mod times;

use std::collections::BTreeMap;

use futures::StreamExt;

use self::expired::Held;
use crate::archive::{Archive, ArchiveError, BaseManifest, Catalog, ChainEnd, ChainItem, HeldLog};
use crate::log::segment::SegmentHeader;
use crate::recovery::error::RecoveryError;
use crate::recovery::pieces::{Builder, Pieces};
use crate::recovery::target::{RecoveryTarget, show_time};
use crate::wire::position::{Boundary, Offset, Position, ReplId};
use crate::wire::resp::FeedScanner;

/// A part of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The segment. A plan does not keep its writer, and in a long log no time marks (`has_marks`), because there are millions of
    /// them.
    pub header: SegmentHeader,
    /// The header is complete. Otherwise its time marks are missing here.
    pub has_marks: bool,
    /// Wanted: the bytes after this offset, at least the segment's start,
    pub after: Offset,
    /// up to and including this one, at most the segment's end.
    pub upto: Offset,
    /// Its server sends relative TTLs.
    pub relative_ttls: bool,
}

/// What a restore consists of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The history that was asked for.
    pub history: ReplId,
    /// The point that was asked for.
    pub recovery_target: RecoveryTarget,
    /// The snapshot to begin with.
    pub base: BaseManifest,
    /// The log after it, without holes: the first begins at the base's offset, the last ends at `end`.
    pub pieces: Pieces,
    /// Where it ends: between commands, outside `MULTI`.
    pub end: Boundary,
    /// The same with the history that the end belongs to: `history` or an ancestor.
    pub end_position: Position,
    /// When the last byte was received. None when this is not known.
    pub end_unix_ms: Option<i64>,
    /// The end is exactly the last safe point of `history`: it may be continued.
    pub is_tip_end: bool,
    /// The last stored byte of `history`'s log, which a seal follows or would follow. Known when the end is in
    /// `history` itself.
    pub stored_end: Option<Offset>,
    /// The log holds relative TTLs: it cannot be served under its own offsets.
    pub relative_ttls: bool,
    /// Commands of the log that every server refuses when it replays them. Known when the log was read.
    pub refused: u64,
    /// What an operator should know: damaged bases that were skipped, segments beyond a gap.
    pub notes: Vec<String>,
}

impl Plan {
    /// The log was read: does it hold relative expiries, which must be made absolute wherever it is replayed?
    pub fn set_relative_ttls(&mut self, found: bool) {
        self.relative_ttls = found;
        self.pieces.set_relative_ttls(found);
    }

    /// Where what it needs begins in each history: with its base, or the byte after that offset.
    ///
    /// # Errors
    /// When the file cannot be read that keeps the pieces of a long log.
    pub fn begins(&self) -> Result<BTreeMap<ReplId, Offset>, ArchiveError> {
        let mut begins = BTreeMap::from([(self.base.history, self.base.offset)]);
        for log in self.stretches()? {
            let begin = begins.entry(log.history).or_insert(log.after);
            *begin = log.after.min(*begin);
        }
        Ok(begins)
    }

    /// The log that it needs, of each history as one stretch.
    ///
    /// # Errors
    /// When the file cannot be read that keeps the pieces of a long log.
    pub fn stretches(&self) -> Result<Vec<HeldLog>, ArchiveError> {
        let mut log: BTreeMap<ReplId, HeldLog> = BTreeMap::new();
        for piece in self.pieces.iter() {
            let piece = piece?;
            let history = piece.header.meta.history;
            let held = log.entry(history).or_insert(HeldLog {
                history,
                after: piece.after,
                upto: piece.upto,
            });
            held.after = held.after.min(piece.after);
            held.upto = held.upto.max(piece.upto);
        }
        Ok(log.into_values().collect())
    }

    /// Bytes of the snapshot.
    #[must_use]
    pub fn bytes_base(&self) -> u64 {
        self.base.raw_bytes
    }

    /// Bytes of the log after it.
    #[must_use]
    pub fn bytes_log(&self) -> u64 {
        self.end.offset.since(self.base.offset)
    }

    /// The boundary of the base.
    #[must_use]
    pub fn start(&self) -> Boundary {
        Boundary {
            offset: self.base.offset,
            db: self.base.db,
        }
    }
}

/// Bases that must not be used, with what is wrong with each.
pub type BadBases = BTreeMap<(ReplId, Offset), String>;

/// Which bases a plan may begin with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usable<'a> {
    /// These are not used.
    pub(crate) bad: &'a BadBases,
    /// Use no base after this offset: the commands after it are wanted one by one.
    pub(crate) upto: Option<Offset>,
}

impl Usable<'_> {
    fn is_bad(&self, base: &BaseManifest) -> bool {
        self.bad.contains_key(&(base.history, base.offset))
    }

    fn allows(&self, base: &BaseManifest) -> bool {
        !self.is_bad(base) && self.upto.is_none_or(|upto| base.offset <= upto)
    }
}

/// The plan according to `catalog` ([`super::plan()`]).
pub(crate) async fn of_listed(
    archive: &Archive,
    catalog: &Catalog,
    history: ReplId,
    recovery_target: RecoveryTarget,
    usable: Usable<'_>,
) -> Result<Plan, RecoveryError> {
    let mut planner = Planner {
        archive,
        catalog,
        spans: spans(catalog, history)?,
        sealed: archive.sealed_at(catalog, history).await?,
        history,
        recovery_target,
        usable,
        held: Held::new(),
    };
    planner.held = planner.held().await?;
    let planned = planner.plan().await;
    planned.map_err(|error| planner.or_expired(error))
}

/// A stretch of the lineage: the bytes of `history` up to `upto` belong to it. The descendant comes first.
#[derive(Debug, Clone, Copy)]
struct Span {
    history: ReplId,
    upto: Offset,
}

fn spans(catalog: &Catalog, history: ReplId) -> Result<Vec<Span>, RecoveryError> {
    let lineage = catalog.lineage(history)?;
    Ok(lineage
        .into_iter()
        .map(|at| Span {
            history: at.history,
            upto: at.offset,
        })
        .collect())
}

struct Planner<'a> {
    archive: &'a Archive,
    catalog: &'a Catalog,
    spans: Vec<Span>,
    /// A writer that did not know of the seal yet may have stored a snapshot beyond it.
    sealed: Option<Offset>,
    history: ReplId,
    recovery_target: RecoveryTarget,
    usable: Usable<'a>,
    held: Held,
}

/// How far a walk along the chain of segments came.
struct Walk {
    pieces: Pieces,
    /// The last byte reached.
    reached: Offset,
    /// Index of the span in which it stopped.
    span: usize,
    /// Why it stopped, unless it came to the goal.
    stopped: Option<ChainEnd>,
}

impl Planner<'_> {
    async fn plan(&self) -> Result<Plan, RecoveryError> {
        let goal = self.goal().await?;
        let (span, base) = self.base(goal)?;
        if self.is_doubtful(goal) {
            self.check_log_upto_floor(span, base).await?;
        }
        let walk = self.walk(span, base, goal).await?;
        let end = self.end(base, &walk.pieces).await?;
        let mut notes = Vec::new();
        let tip = self.tip(walk.span, &mut notes).await?;
        self.check_reached(base, &walk, goal, end, tip)?;
        self.note_floor(base, span, walk.span, end.offset, &mut notes)
            .await?;
        self.finish(base, walk, end, tip, notes).await
    }

    /// The offset that may not be passed.
    async fn goal(&self) -> Result<Offset, RecoveryError> {
        match self.recovery_target {
            RecoveryTarget::Latest => Ok(Offset(u64::MAX)),
            RecoveryTarget::Offset(offset) => Ok(Offset(offset)),
            RecoveryTarget::AtUnixMs(at) => match self.offset_at(at).await? {
                Some(offset) => Ok(offset),
                None => Err(self.before_oldest()),
            },
        }
    }

    /// All bases of the lineage, each with the index of its span.
    fn bases(&self) -> impl Iterator<Item = (usize, &BaseManifest)> {
        self.spans.iter().enumerate().flat_map(|(index, span)| {
            let history = self.catalog.histories.get(&span.history);
            let bases = history
                .map(|history| history.bases.as_slice())
                .unwrap_or_default();
            let sealed = self.sealed.filter(|_| index == 0);
            let upto = sealed.map_or(span.upto, |sealed| sealed.min(span.upto));
            bases
                .iter()
                .filter(move |base| base.offset <= upto)
                .map(move |base| (index, base))
        })
    }

    /// The newest usable base at or below the goal.
    fn base(&self, goal: Offset) -> Result<(usize, &BaseManifest), RecoveryError> {
        let before = self.bases().filter(|(_, base)| base.offset <= goal);
        let newest = before
            .filter(|(_, base)| self.usable.allows(base) && self.leads_to(base, goal))
            .max_by_key(|(_, base)| base.offset);
        newest.ok_or_else(|| self.no_base(goal))
    }

    /// Why there is none: those that could have served are damaged, or there never was one.
    fn no_base(&self, goal: Offset) -> RecoveryError {
        let mut before = self.bases().filter(|(_, base)| base.offset <= goal);
        if !before.any(|(_, base)| self.usable.is_bad(base)) {
            return self.before_oldest();
        }
        RecoveryError::NoSoundBase {
            goal: self.recovery_target.to_string(),
            damaged: self.usable.bad.values().cloned().collect(),
        }
    }

    /// What the same service had stored before the oldest history of the lineage began with a full sync.
    fn before(&self) -> Option<String> {
        let root = self.spans.last()?.history;
        let previous = self.catalog.histories.get(&root)?.doc.previous?;
        Some(format!(
            "history {root} began with a new full sync. What was stored before is history {}, up to offset {}. Name \
             that history to restore it",
            previous.history, previous.offset
        ))
    }

    fn before_oldest(&self) -> RecoveryError {
        let sound = self.bases().filter(|(_, base)| !self.usable.is_bad(base));
        let goal = self
            .usable
            .upto
            .map_or(self.recovery_target, |upto| RecoveryTarget::Offset(upto.0));
        let bad = self.usable.bad;
        match sound.min_by_key(|(_, base)| base.offset) {
            Some((_, oldest)) => RecoveryError::BeforeOldest {
                goal: goal.to_string(),
                oldest: format!(
                    "the snapshot at offset {} (made {}){}",
                    oldest.offset,
                    show_time(oldest.created_unix_ms),
                    self.before()
                        .map(|before| format!("; {before}"))
                        .unwrap_or_default()
                ),
            },
            None if bad.is_empty() => RecoveryError::NothingToRestore {
                url: self.archive.store().url(),
            },
            None => RecoveryError::NoSoundBase {
                goal: goal.to_string(),
                damaged: bad.values().cloned().collect(),
            },
        }
    }

    /// Follows the log from the base towards the goal, from each history into the one that continued it.
    async fn walk(
        &self,
        span: usize,
        base: &BaseManifest,
        goal: Offset,
    ) -> Result<Walk, RecoveryError> {
        let mut walk = Walk {
            pieces: Pieces::default(),
            reached: base.offset,
            span,
            stopped: None,
        };
        let mut pieces = Builder::default();
        while let Some(span) = self.spans.get(walk.span).copied() {
            self.walk_span(span, &mut walk, &mut pieces, goal).await?;
            let crosses = walk.reached == span.upto && walk.span > 0;
            if !crosses || walk.reached >= goal {
                break;
            }
            walk.span = walk.span.saturating_sub(1);
            walk.stopped = None;
        }
        walk.pieces = pieces.build();
        Ok(walk)
    }

    async fn walk_span(
        &self,
        span: Span,
        walk: &mut Walk,
        pieces: &mut Builder,
        goal: Offset,
    ) -> Result<(), RecoveryError> {
        let limit = span.upto.min(goal);
        let relative_ttls = self
            .catalog
            .histories
            .get(&span.history)
            .is_some_and(|history| history.doc.server.relative_ttls());
        let mut chain = self.archive.chain(self.catalog, span.history, walk.reached);
        while walk.reached < limit {
            let Some(item) = chain.next().await else {
                break;
            };
            match item? {
                ChainItem::Segment(header) => {
                    let upto = header.meta.end.min(limit);
                    let after = walk.reached;
                    walk.reached = upto;
                    pieces.push(&Piece {
                        header,
                        has_marks: true,
                        after,
                        upto,
                        relative_ttls,
                    });
                }
                ChainItem::End(end) => {
                    walk.stopped = Some(end);
                    break;
                }
            }
        }
        Ok(())
    }

    /// The last boundary in what was walked.
    async fn end(&self, base: &BaseManifest, pieces: &Pieces) -> Result<Boundary, RecoveryError> {
        let start = Boundary {
            offset: base.offset,
            db: base.db,
        };
        for index in (0..pieces.len()).rev() {
            let piece = pieces.get(index)?;
            match piece.header.meta.boundary {
                Some(boundary) if boundary.offset <= piece.after => {}
                Some(boundary) if boundary.offset <= piece.upto => return Ok(boundary),
                // Cut before the segment's last boundary: only its bytes tell where the one before that is.
                Some(_) => return self.scan(start, pieces, index).await,
                None => {}
            }
        }
        Ok(start)
    }

    /// Reads the piece at index `last`, from a point before it that is known to be a boundary.
    async fn scan(
        &self,
        start: Boundary,
        pieces: &Pieces,
        last: usize,
    ) -> Result<Boundary, RecoveryError> {
        let (mut first, mut from) = (0, start);
        for index in (0..=last).rev() {
            let piece = pieces.get(index)?;
            let meta = &piece.header.meta;
            if meta.starts_at_boundary && piece.after == meta.start {
                let (offset, db) = (piece.after, meta.db_at_start);
                (first, from) = (index, Boundary { offset, db });
                break;
            }
        }
        let mut scanner = FeedScanner::new(from);
        let count = last.saturating_sub(first).saturating_add(1);
        for piece in pieces.iter_from(first).take(count) {
            let piece = &piece?;
            let mut stream = super::content::piece_bytes(self.archive, piece).await?;
            while let Some(chunk) = stream.next().await {
                let history = piece.header.meta.history;
                scanner
                    .scan(&chunk?, |_| {})
                    .map_err(|source| RecoveryError::BadLog { history, source })?;
            }
        }
        Ok(scanner.boundary())
    }

    /// An end before the goal must be one that the goal allows.
    fn check_reached(
        &self,
        base: &BaseManifest,
        walk: &Walk,
        goal: Offset,
        end: Boundary,
        tip: Option<Tip>,
    ) -> Result<(), RecoveryError> {
        // No end may be before a snapshot that was skipped, because the data continued.
        let passed_over = self
            .bases()
            .filter(|(_, base)| !self.usable.allows(base) && base.offset <= goal);
        let needed = passed_over
            .map(|(_, base)| base.offset)
            .max()
            .unwrap_or_default();
        let log_ended = walk.span == 0
            && match walk.stopped {
                Some(ChainEnd::Log(_) | ChainEnd::Sealed(_)) => true,
                // A base may stand beyond a gap that nothing bridges yet. Then the log ends here.
                Some(ChainEnd::Gap { .. } | ChainEnd::SteppedOver { .. }) => {
                    tip.is_some_and(|tip| tip.stored <= walk.reached)
                }
                None => false,
            };
        let history = self
            .spans
            .get(walk.span)
            .map_or(self.history, |span| span.history);
        if walk.reached >= goal {
            return Ok(());
        }
        if log_ended && walk.reached >= needed {
            return match self.recovery_target {
                RecoveryTarget::Latest | RecoveryTarget::AtUnixMs(_) => Ok(()),
                RecoveryTarget::Offset(_) => Err(RecoveryError::AfterLatest {
                    goal: self.recovery_target.to_string(),
                    last: Position {
                        history,
                        offset: end.offset,
                    },
                }),
            };
        }
        if let Some(ChainEnd::SteppedOver { at, resumes }) = walk.stopped
            && resumes > goal
        {
            return Err(RecoveryError::SteppedOver {
                goal: self.recovery_target.to_string(),
                from: Position {
                    history,
                    offset: at,
                },
                upto: resumes,
                reachable: end.offset,
            });
        }
        Err(RecoveryError::Gap {
            history,
            missing: walk.reached.next_byte(),
            next: match walk.stopped {
                Some(ChainEnd::Gap { next, .. }) => Some(next),
                Some(ChainEnd::SteppedOver { resumes, .. }) => Some(resumes.next_byte()),
                _ => None,
            },
            goal: self.recovery_target.to_string(),
            base: base.offset,
            reachable: end.offset,
            stepped_over: matches!(walk.stopped, Some(ChainEnd::SteppedOver { .. })),
        })
    }

    async fn finish(
        &self,
        base: &BaseManifest,
        mut walk: Walk,
        end: Boundary,
        tip: Option<Tip>,
        mut notes: Vec<String>,
    ) -> Result<Plan, RecoveryError> {
        let end_history = self
            .spans
            .get(walk.span)
            .map_or(self.history, |span| span.history);
        for ((id, offset), why) in self.usable.bad {
            notes.push(format!("the snapshot at {id}:{offset} was skipped: {why}"));
        }
        if let Some(ChainEnd::Gap { at, next }) = walk.stopped {
            notes.push(format!(
                "the log of history {end_history} ends at offset {at}. Segments from byte {next} on are after a gap, \
                 and belong to no restore point"
            ));
        }
        notes.extend(self.before());
        walk.pieces.trim(end.offset)?;
        Ok(Plan {
            history: self.history,
            recovery_target: self.recovery_target,
            end,
            end_position: Position {
                history: end_history,
                offset: end.offset,
            },
            end_unix_ms: self.end_time(base, &walk.pieces, end.offset).await?,
            is_tip_end: tip.is_some_and(|tip| tip.boundary.offset == end.offset),
            stored_end: tip.map(|tip| tip.stored),
            relative_ttls: walk.pieces.have_relative_ttls()?,
            refused: 0,
            base: base.clone(),
            pieces: walk.pieces,
            notes,
        })
    }

    /// Where the log of the requested history ends, if the restore ends in that history (the first span).
    async fn tip(
        &self,
        span: usize,
        notes: &mut Vec<String>,
    ) -> Result<Option<Tip>, RecoveryError> {
        if span > 0 {
            return Ok(None);
        }
        match self.archive.log_end(self.catalog, self.history).await {
            Ok(end) => Ok(Some(Tip {
                stored: end.end,
                boundary: end.boundary,
            })),
            Err(error) if error.is_damage() => {
                notes.push(format!("the end of the log is not known: {error}"));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// When the end was received: the first mark at or after it, else the last one before it.
    async fn end_time(
        &self,
        base: &BaseManifest,
        pieces: &Pieces,
        end: Offset,
    ) -> Result<Option<i64>, RecoveryError> {
        let Some(last) = pieces.last()? else {
            return Ok(Some(base.as_of_unix_ms()));
        };
        let header = last.stored_header(self.archive).await?;
        let marks = &header.meta.marks;
        let mark = marks.iter().find(|mark| mark.offset >= end);
        let mark = mark.or(marks.last());
        Ok(mark.map(|mark| mark.unix_ms))
    }
}

#[derive(Clone, Copy)]
struct Tip {
    stored: Offset,
    boundary: Boundary,
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

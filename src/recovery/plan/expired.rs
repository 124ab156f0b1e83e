//! Points below a floor: they are not promised any more. What is still there can be restored by whoever names it.
//!
//! A base that stays alone is used for its own point only, because the log after it may be gone.

use super::{Planner, Span, Walk};
use crate::archive::{BaseManifest, Floor, HoldDoc};
use crate::recovery::error::RecoveryError;
use crate::recovery::target::{RecoveryTarget, show_time};
use crate::wire::position::Offset;

/// The holds, if a floor makes them count.
pub(super) type Held = Vec<HoldDoc>;

impl Planner<'_> {
    /// Reads the holds, if a floor makes them count.
    pub(super) async fn held(&self) -> Result<Held, RecoveryError> {
        if self.floor().is_none() {
            return Ok(Held::new());
        }
        let (holds, unreadable) = self.archive.readable_holds().await?;
        for error in unreadable {
            tracing::warn!("{error}. What this hold keeps is not looked at");
        }
        Ok(holds)
    }

    /// Holds that keep a base below a floor.
    fn holds_of(&self, base: &BaseManifest) -> impl Iterator<Item = &HoldDoc> {
        let base = base.position();
        self.held.iter().filter(move |hold| hold.base == base)
    }

    /// The floor of the line: points before it are not promised. (Where the line leaves a history below its floor, that
    /// floor is not for this line: what a child needs stays.)
    pub(super) fn floor(&self) -> Option<&Floor> {
        let floors = self.spans.iter().filter_map(|span| {
            let history = self.catalog.histories.get(&span.history)?;
            let floor = history.floors.highest()?;
            (floor.offset <= span.upto).then_some(floor)
        });
        floors.max_by_key(|floor| floor.offset)
    }

    fn is_below(&self, at: Offset) -> bool {
        self.floor().is_some_and(|floor| at < floor.offset)
    }

    /// Is the log after a base there, as far as floors tell?
    pub(super) fn has_log(&self, base: &BaseManifest) -> bool {
        let history = self.catalog.histories.get(&base.history);
        let is_alone = history.is_some_and(|history| history.floors.is_alone(base.offset));
        // What a child needs that left its parent below a floor stays, with its log.
        let is_alone = is_alone && self.is_below(base.offset);
        // A hold of the base's own point may have come when the log was gone.
        let mut holds = self.holds_of(base);
        !is_alone || holds.any(|hold| !hold.log.is_empty())
    }

    /// May a plan for that goal begin with it?
    pub(super) fn leads_to(&self, base: &BaseManifest, goal: Offset) -> bool {
        let is_its_point =
            matches!(self.recovery_target, RecoveryTarget::Offset(_)) && base.offset == goal;
        is_its_point || self.has_log(base)
    }

    /// The last base of a time: what it holds had been received by then. The marks before it may be gone.
    pub(super) fn base_at(&self, unix_ms: i64) -> Option<Offset> {
        self.floor()?;
        let bases = self.bases().map(|(_, base)| base);
        let by_then = bases.filter(|base| base.as_of_unix_ms() <= unix_ms);
        by_then.map(|base| base.offset).max()
    }

    /// Is that a point below the floor whose time names it only if all of the log up to the floor is there?
    pub(super) fn is_doubtful(&self, goal: Offset) -> bool {
        matches!(self.recovery_target, RecoveryTarget::AtUnixMs(_)) && self.is_below(goal)
    }

    /// Walks on from a base up to the floor.
    pub(super) async fn check_log_upto_floor(
        &self,
        span: usize,
        base: &BaseManifest,
    ) -> Result<(), RecoveryError> {
        let Some(floor) = self.floor().map(|floor| floor.offset) else {
            return Ok(());
        };
        let walk: Walk = self.walk(span, base, floor).await?;
        match walk.reached >= floor {
            true => Ok(()),
            false => Err(self.expired()),
        }
    }

    /// What a plan that ends at `end` says of a floor above it. It goes from the span with the index `from` to `to`. The
    /// deletion may have begun since the names were listed.
    pub(super) async fn note_floor(
        &self,
        base: &BaseManifest,
        from: usize,
        to: usize,
        end: Offset,
        notes: &mut Vec<String>,
    ) -> Result<(), RecoveryError> {
        let Some(floor) = self.floor().filter(|floor| end < floor.offset) else {
            return Ok(());
        };
        if self.archive.manifest_of(base.position()).await?.is_none() {
            return Err(self.expired());
        }
        // In the history of its base, a hold keeps all of the log after that.
        let later = self.spans.get(to..from).unwrap_or_default();
        let mut holds = self.holds_of(base);
        let is_held = holds.any(|hold| {
            let has_log = |span: &Span| hold.log.iter().any(|log| log.history == span.history);
            later.iter().all(has_log) && (end == base.offset || !hold.log.is_empty())
        });
        if !is_held && self.has_log(base) {
            notes.push(format!(
                "offset {end} is not promised any more: the policy keeps what is from offset {} on. What is before it will \
                 be deleted. To keep this point, use `backfeed hold add`",
                floor.offset
            ));
        }
        Ok(())
    }

    /// A plan failed. Has the point expired?
    pub(super) fn or_expired(&self, error: RecoveryError) -> RecoveryError {
        let goes = match &error {
            RecoveryError::Archive(archive) => archive.is_damage(),
            RecoveryError::Gap { .. }
            | RecoveryError::SteppedOver { .. }
            | RecoveryError::BeforeOldest { .. }
            | RecoveryError::NothingToRestore { .. } => true,
            _ => false,
        };
        match goes && self.aims_below() {
            true => self.expired(),
            false => error,
        }
    }

    /// Is the goal before the floor, or the whole history?
    fn aims_below(&self) -> bool {
        let Some(floor) = self.floor() else {
            return false;
        };
        let as_of = floor.doc.as_ref().map(|doc| doc.as_of_unix_ms);
        match self.recovery_target {
            RecoveryTarget::Offset(offset) => Offset(offset) < floor.offset,
            RecoveryTarget::AtUnixMs(at) => as_of.is_none_or(|as_of| at < as_of),
            // Nothing of it is promised.
            RecoveryTarget::Latest => !self.bases().any(|(_, base)| base.offset >= floor.offset),
        }
    }

    pub(super) fn expired(&self) -> RecoveryError {
        let goal = match self.recovery_target {
            RecoveryTarget::Latest => format!("history {}", self.history),
            _ => self.recovery_target.to_string(),
        };
        let promised = self.bases().filter(|(_, base)| !self.is_below(base.offset));
        let oldest = promised.min_by_key(|(_, base)| base.offset);
        let oldest = match (oldest, self.floor().and_then(|floor| floor.doc.as_ref())) {
            (Some((_, base)), _) => format!(
                "offset {} ({})",
                base.offset,
                show_time(base.as_of_unix_ms())
            ),
            (None, Some(doc)) => format!(
                "offset {} of history {} ({})",
                doc.base.offset,
                doc.base.history,
                show_time(doc.as_of_unix_ms)
            ),
            (None, None) => "not known".to_owned(),
        };
        let alone = self.bases().filter(|(_, base)| self.is_below(base.offset));
        let alone: Vec<String> = alone
            .map(|(_, base)| {
                let made = show_time(base.as_of_unix_ms());
                format!("`offset:{}` ({made})", base.offset)
            })
            .collect();
        RecoveryError::Expired {
            goal,
            oldest,
            snapshots: alone,
        }
    }
}

//! Takes back a span that is wrong.

use futures::TryStreamExt;

use super::super::log_objects::uncovered;
use super::super::run::Run;
use super::super::{Archive, ArchiveError, GRACE_MS, LogObject, MergeError};
use super::Deleter;
use crate::store::Listing;
use crate::wire::position::ReplId;

/// A span that is wrong may be withdrawn for so long. Segments go when a span is as old as the grace, and not before.
const WITHDRAWN_MS: u64 = GRACE_MS / 8;

impl MergeError {
    /// Is a span wrong that was read back?
    pub(in crate::archive) fn is_wrong(&self) -> bool {
        match self {
            Self::Differs { .. } => true,
            Self::Archive(ArchiveError::NewerFormat { .. }) => false,
            Self::Archive(error) => error.is_unreadable(),
        }
    }
}

impl Archive {
    /// Takes back a span that is wrong: a reader would take it for the log. It goes only as long as it is so young that nobody
    /// can have deleted a segment because of it, and if its bytes are elsewhere. Whether it is wrong is found out here once more,
    /// whatever the caller has found: whoever deletes may sleep before that for as long as the grace, and a span that is right may
    /// be all that there is of its bytes then. False: it stays.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub(in crate::archive) async fn withdraw(
        &self,
        history: ReplId,
        span: LogObject,
    ) -> Result<bool, ArchiveError> {
        let mut deleter = match self.deleter().await {
            Err(ArchiveError::Timeless { .. }) => return Ok(false),
            deleter => deleter?,
        };
        deleter.withdraw(history, span).await
    }
}

impl Deleter {
    async fn withdraw(&mut self, history: ReplId, span: LogObject) -> Result<bool, ArchiveError> {
        let object = span.name(history).to_string();
        let one = Listing::of(&object).pages_of(1);
        let found = self.archive.store.list_with(one).await.try_next().await?;
        let Some(found) = found.filter(|found| found.name == object) else {
            return Ok(true);
        };
        let is_young = found.created.is_some_and(|created| {
            created <= self.now_ms && self.now_ms.abs_diff(created) < WITHDRAWN_MS
        });
        if !is_young {
            return Ok(false);
        }
        let stand = self.archive.segments_of(history, span).await?.is_some();
        if !stand && !self.is_in_others(history, span).await? {
            return Ok(false);
        }
        if !self.is_wrong(history, span).await? {
            return Ok(false);
        }
        self.delete_all(&object, &[found]).await
    }

    /// Can it not be read, or does it not hold what its segments hold? Or has a span other bytes that is so old that segments may
    /// have gone because of it? Then whoever made this one has read what a sleeper left.
    async fn is_wrong(&self, history: ReplId, span: LogObject) -> Result<bool, ArchiveError> {
        let run = self.archive.segments_of(history, span).await?;
        let run = run.unwrap_or_else(|| Run::of(Vec::new()));
        match self.archive.compare_span(history, &run, span).await {
            Ok(()) => {}
            Err(error) if error.is_wrong() => return Ok(true),
            Err(MergeError::Archive(error)) => return Err(error),
            Err(MergeError::Differs { .. }) => return Ok(true),
        }
        for other in self.archive.spans_beside(history, span).await? {
            let name = other.name(history).to_string();
            let created = self.archive.created_of(&name).await?.flatten();
            if self.is_aged(created, GRACE_MS) && self.archive.differ(history, span, other).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Do other spans have all bytes of this one?
    async fn is_in_others(&self, history: ReplId, span: LogObject) -> Result<bool, ArchiveError> {
        let last = span.last().unwrap_or_default();
        let until = Some(last.saturating_add(1));
        let mut others = self.archive.span_names(history, 0, until).await?;
        others.retain(|other| *other != span);
        let missing = uncovered(span.first(), &others);
        Ok(missing.first().is_none_or(|(first, _)| *first > last))
    }
}

//! Another history continues this one. Which one it is, is recorded in the store before anything of it is acknowledged.

use super::captured_server::server_info;
use super::session::Origin;
use super::{Capture, SessionEnd, predecessor};
use crate::archive::takeover::{Branch, SuccessionError, SuccessorDoc};
use crate::archive::{Archive, ArchiveError, Catalog, FORMAT, HistoryDoc, Parent, ServerInfo};
use crate::link::replication_info::Facts;
use crate::wire::position::{Position, ReplId};

impl Capture {
    /// A server that was restored from a history which another one already continues does not belong to a backup of
    /// that history, with or without a full sync.
    pub(super) async fn check_twin(&self, said: Option<&Facts>) -> Result<(), SessionEnd> {
        let Some(said) = said else {
            return Ok(());
        };
        let (Some(id), Some((old, shared))) = (said.replid, said.branched_off()) else {
            return Ok(());
        };
        let at = Position {
            history: self.aliases.key(old),
            offset: shared,
        };
        // What is recorded is the id that it had when it was promoted. It may have another key since.
        let run = said.health.run_id.as_deref();
        let other = self.archive.served_to_another(at.history, shared, id, run);
        match other.await? {
            Some(other) if other.child.id != self.aliases.key(id) => Err(succeeded(at, &other)),
            _ => Ok(()),
        }
    }

    /// A failover or a restore: the history continues as `id`, which has the old one as its parent.
    pub(super) async fn move_to(
        &mut self,
        from: Origin,
        id: ReplId,
        facts: Option<&Facts>,
    ) -> Result<(), SessionEnd> {
        let (mut stored, mut recent) = (from.stored, from.recent.clone());
        if let Some(log) = self.log.take() {
            log.drain().await;
            (stored, recent) = log.buffer(|buffer| (buffer.stored().offset, buffer.recent()));
            // Somebody sealed the old log before it held all that we have. The new history must not begin beyond that seal.
            if stored < from.boundary.offset {
                return Err(SessionEnd::StartOver(format!(
                    "history {} was sealed at offset {stored} by a writer that moved on to {id}",
                    from.history
                )));
            }
        }
        let reason = format!("continues as {id} from offset {}", from.boundary.offset);
        let at = |offset| Position {
            history: from.history,
            offset,
        };
        let sealed = match &from.sealed {
            Some(seal) => at(seal.start),
            None => {
                let now = (self.clock)();
                let sealed = self
                    .archive
                    .seal_end(at(stored), &reason, &self.writer, now);
                sealed.await.map_err(ArchiveError::from)?
            }
        };
        let parent = Parent {
            history: from.history,
            offset: from.boundary.offset,
            db: from.boundary.db,
        };
        // Another server may have answered than the one that said its `run_id`.
        let said = facts.filter(|facts| facts.replid == Some(id));
        let run = said.and_then(|facts| facts.health.run_id.as_deref());
        self.begin_child_of(id, parent, server_info(facts), run)
            .await
            .map_err(|error| match error {
                SuccessionError::GoesOn(other) => succeeded(sealed, &other),
                SuccessionError::Beside(_) => SessionEnd::StartOver(error.to_string()),
                SuccessionError::Archive(error) => error.into(),
            })?;
        // Another listener of the same feed may have been here before us, at another offset.
        let catalog = self.archive.only(id).await?;
        let end = self.archive.log_end(&catalog, id).await?;
        // What they have stored of it is compared with what the server sends, before that counts as the same.
        if end.sealed.is_some() || end.end != from.boundary.offset {
            return Err(SessionEnd::StartOver(format!(
                "history {id} is in the store already, up to offset {}",
                end.end
            )));
        }
        tracing::info!(from = %from.position(), to = %id, "the server continues the feed under a new id");
        self.start_log(id, from.boundary, end.end, from.last_mark_ms);
        self.remember(recent.and_then(|recent| recent.up_to(from.boundary.offset)));
        self.compare_again(from.sample, from.boundary);
        Ok(())
    }

    /// Looks what a history that begins now comes after, by what `catalog` knows.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn look_before(
        &mut self,
        archive: &Archive,
        catalog: &Catalog,
    ) -> Result<(), ArchiveError> {
        self.aliases = catalog.aliases();
        self.before = predecessor::find(archive, catalog, &self.service).await?;
        self.seen = Some(catalog.histories.keys().copied().collect());
        Ok(())
    }

    /// Records that a history continues as `id`, the present id of its server. The history must be sealed.
    ///
    /// # Errors
    /// [`SuccessionError::GoesOn`] and [`SuccessionError::Beside`]: another server continues it.
    pub async fn begin_child(
        &self,
        id: ReplId,
        parent: Parent,
        server: ServerInfo,
    ) -> Result<(), SuccessionError> {
        self.begin_child_of(id, parent, server, None).await
    }

    /// The same for a server whose `run_id` is known.
    async fn begin_child_of(
        &self,
        id: ReplId,
        parent: Parent,
        server: ServerInfo,
        run: Option<&str>,
    ) -> Result<(), SuccessionError> {
        let mut doc = self.history_doc(id, Some(parent), server);
        doc.run_id = run.map(str::to_owned);
        let before = predecessor::of_branch(&self.before, parent.history, self.guards);
        let now = (self.clock)();
        let others = before.iter().filter(|previous| {
            previous.at.history != id && previous.lineage.contains(&parent.history)
        });
        for previous in others.filter(|_| self.guards) {
            // It was decided by what was stored then. What was stored since may have been confirmed.
            let mut now = previous.clone();
            if predecessor::has_grown(&self.archive, &mut now).await? {
                return Err(SuccessionError::Beside(now.at.history));
            }
        }
        let ends = predecessor::name(&self.archive, &before, &mut doc).await?;
        // The line of a sidecar's store is one: what does not come after all of it must not begin beside it.
        let is_left_out = |previous: &&predecessor::Previous| {
            let id = previous.at.history;
            previous.lineage.contains(&parent.history)
                && id != doc.id
                && doc.before().all(|named| named != id)
        };
        if let Some(left_out) = before.iter().find(is_left_out).filter(|_| self.guards) {
            return Err(SuccessionError::Beside(left_out.at.history));
        }
        predecessor::seal(&self.archive, &ends, &doc, &self.writer, now).await?;
        let seen = self.seen.as_ref();
        let branch = Branch { run, seen };
        let begun = self.archive.begin_branch(&doc, None, &self.writer, branch);
        begun.await
    }

    pub(super) fn history_doc(
        &self,
        id: ReplId,
        parent: Option<Parent>,
        server: ServerInfo,
    ) -> HistoryDoc {
        let created_unix_ms = self.now().unix_ms;
        HistoryDoc {
            format: FORMAT,
            id,
            replid: None,
            parent,
            previous: None,
            also_previous: Vec::new(),
            service: self.service.clone(),
            server,
            run_id: None,
            created_unix_ms,
        }
    }
}

/// Another server goes on from where this one does: a sidecar has restored it from the same history.
pub(super) fn succeeded(sealed: Position, other: &SuccessorDoc) -> SessionEnd {
    SessionEnd::Superseded {
        at: sealed,
        reason: format!(
            "by {}: it continues as {} there",
            other.writer, other.child.id
        ),
    }
}

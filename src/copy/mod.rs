//! `copy`: an archive in another store, object by object, under the same names.
//!
//! A copy that ends at any moment is an archive, which holds what the source held at some moment before, or a part of that
//! ([`history`] has the order). Nothing at the target is written over, and nothing is deleted there.
//!
//! | object | is copied | the target has another one of that name |
//! |---|---|---|
//! | `archive.json` | first of all | it is another archive: nothing is copied |
//! | `sidecar.json`, `first.json`, holds | yes | an error |
//! | `history.json`, `successor.json`, manifests and data of bases | yes | an error |
//! | segments, seals | yes, but for those in a span that is as old as the grace | an error |
//! | spans | yes | it stays, if it holds the same; else an error |
//! | floors, verdicts | yes | it stays: policies and proofs may be the target's own |
//! | claims, `clock/`, drills | no: they are about processes at the source | |
//!
//! **What is the same.** Documents are compared byte by byte. An object of the log, and the data of a base, is created once, and
//! only from bytes that were checked. So where name and size are the same, it is not read again. `deep` reads all of it at both
//! places.

mod error;
mod history;
mod listed;
mod object;
mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::TryStreamExt;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::archive::{Amount, Archive, ArchiveError, HOLDS, HistoryDoc, Kinds, Name, held_base};
use crate::recovery::{Progress, Stage};
use crate::store::SharedStore;
use crate::wire::position::{Position, ReplId};
use error::Trouble;
pub use error::{CopyError, Side};
use history::{Cursor, Outcome, Pass};

/// Memory for objects that are read before their turn, in KiB.
const AHEAD_KIB: usize = 64 << 10;
const _: () = assert!(object::SHORT <= (AHEAD_KIB as u64) << 10);

/// After so many rounds, all that is there is compared again. What came at an unusual place (a base that was made by hand in an
/// old history, a floor) is found then.
const ALL_EVERY: u64 = 60;

/// Objects that are named in a report; more are counted.
const NAMED: usize = 20;

/// What is copied where.
#[derive(Debug)]
pub struct Request {
    /// The source.
    pub from: SharedStore,
    /// The target.
    pub to: SharedStore,
    /// Say what would be copied, and create nothing.
    pub dry_run: bool,
    /// Read also what is there already, at both places.
    pub deep: bool,
}

/// An object that cannot be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its name.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The source.
    pub from: String,
    /// The target.
    pub to: String,
    /// Nothing was created.
    pub dry_run: bool,
    /// All that the source held at this time, by our clock, is at the target. Null: something could not be copied.
    pub copied_to_unix_ms: Option<i64>,
    /// Histories at the source.
    pub histories: u64,
    /// What was copied, or would be.
    pub copied: Kinds,
    /// Objects that were there already.
    pub there: u64,
    /// Segments that were not copied, because a span has had them for hours.
    pub in_spans: u64,
    /// Objects that were not copied, because the target has given them up by a policy of its own.
    pub expired: u64,
    /// Objects that were not copied, because they are no part of the log.
    pub stale: u64,
    /// Histories that only the target has.
    pub only_at_target: u64,
    /// Objects of the source that cannot be copied: the first of them.
    pub damaged: Vec<Damaged>,
    /// All of these.
    pub damaged_objects: u64,
    /// What else an operator should know.
    pub notes: Vec<String>,
}

impl Report {
    fn copied(&mut self, name: Name, bytes: u64) {
        self.copied.add(name, bytes);
    }

    fn damaged(&mut self, object: &str, reason: String) {
        self.damaged_objects = self.damaged_objects.saturating_add(1);
        if self.damaged.len() < NAMED {
            self.damaged.push(Damaged {
                object: object.to_owned(),
                reason,
            });
        }
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < NAMED {
            self.notes.push(note);
        }
    }

    /// Everything that was copied.
    #[must_use]
    pub fn total(&self) -> Amount {
        self.copied.total()
    }
}

/// What is known of a history after a round.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// The last object of its log, and the last span, began with these bytes.
    last: Cursor,
    /// Another one came after it, and nothing of it was left to copy then.
    settled: bool,
}

/// Copies one archive, once or again and again.
#[derive(Debug)]
pub struct Copier {
    from: Archive,
    to: Archive,
    dry_run: bool,
    deep: bool,
    memory: Arc<Semaphore>,
    docs: BTreeMap<ReplId, HistoryDoc>,
    known: BTreeMap<ReplId, Known>,
    rounds: u64,
}

impl Copier {
    /// Looks whether this can be copied. An empty target becomes an archive without any history.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn begin(request: Request) -> Result<Self, CopyError> {
        let (from_url, to_url) = (request.from.url(), request.to.url());
        let failed = |side, url: &str| {
            let url = url.to_owned();
            move |error: ArchiveError| CopyError::Archive {
                side,
                url,
                error: Box::new(error),
            }
        };
        let from = Archive::open(request.from).await;
        let from = from.map_err(failed(Side::Source, &from_url))?;
        let archive = from.document_bytes(Name::Archive).await;
        let archive = archive.map_err(failed(Side::Source, &from_url))?;
        let archive = archive.unwrap_or_default();
        let opened = match request.dry_run {
            false => Archive::open_copy(request.to, archive.clone()).await,
            true => match Archive::open(request.to.clone()).await {
                Err(ArchiveError::EmptyStore { .. }) => {
                    Ok((Archive::unopened(request.to), archive.clone()))
                }
                Err(error) => Err(error),
                Ok(to) => match to.document_bytes(Name::Archive).await {
                    Ok(found) => Ok((to, found.unwrap_or_default())),
                    Err(error) => Err(error),
                },
            },
        };
        let (to, found) = opened.map_err(failed(Side::Target, &to_url))?;
        if found != archive {
            return Err(CopyError::OtherArchive {
                from: from_url,
                to: to_url,
            });
        }
        Ok(Self {
            from,
            to,
            dry_run: request.dry_run,
            deep: request.deep,
            memory: Arc::new(Semaphore::new(AHEAD_KIB)),
            docs: BTreeMap::new(),
            known: BTreeMap::new(),
            rounds: 0,
        })
    }

    /// Copies what the source holds and the target does not. `report` says what was done also if it ends early.
    ///
    /// # Errors
    /// [`CopyError`]. Objects that cannot be copied are no error, but a finding: [`Report::damaged`].
    pub async fn round(
        &mut self,
        now_unix_ms: i64,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<(), CopyError> {
        *report = Report {
            from: self.from.store().url(),
            to: self.to.store().url(),
            dry_run: self.dry_run,
            ..Report::default()
        };
        progress.stage(Stage::Copying, None);
        let is_all = self.rounds.is_multiple_of(ALL_EVERY);
        if is_all {
            self.known.clear();
        }
        // What these need was there before them, and is listed later.
        let holds = self.holds().await?;
        self.update_documents(report).await?;
        for name in [Name::Sidecar, Name::First] {
            let copied = self.copy_document(name, true).await;
            self.took(name, copied, report)?;
        }
        let order = order::in_order(&self.docs);
        report.histories = self.docs.len() as u64;
        let mut later = Vec::new();
        for id in order {
            if !self.copy_history(id, report, progress).await? {
                later.push(id);
            }
        }
        for id in later {
            if !self.copy_history(id, report, progress).await? {
                report.note(format!(
                    "history {id}: the base with which all that is promised begins is not at the target. The rest of this history is \
                     not copied"
                ));
            }
        }
        for hold in holds {
            self.copy_hold(hold, report).await?;
        }
        self.rounds = self.rounds.saturating_add(1);
        let is_complete = report.damaged_objects == 0 && report.notes.is_empty();
        report.copied_to_unix_ms = (is_complete && !self.dry_run).then_some(now_unix_ms);
        if is_all {
            self.look_for_others(report).await?;
        }
        Ok(())
    }

    async fn holds(&self) -> Result<Vec<Name>, CopyError> {
        let mut holds = Vec::new();
        let mut listed = self.from.store().list(HOLDS, None).await;
        let failed = |error| self.failed(Side::Source, ArchiveError::Store(error));
        while let Some(found) = listed.try_next().await.map_err(failed)? {
            holds.extend(Name::parse(&found.name));
        }
        Ok(holds)
    }

    /// A hold says that a point stays. The target must have it.
    async fn copy_hold(&self, name: Name, report: &mut Report) -> Result<(), CopyError> {
        let doc = self.document(name).await;
        let base: Option<Position> = match doc {
            Ok(bytes) => held_base(name, &bytes),
            Err(trouble) => return self.took(name, Err(trouble), report),
        };
        let Some(base) = base else {
            return Ok(());
        };
        let manifest = self.to.manifest_of(base).await;
        let manifest = manifest.map_err(|error| self.failed(Side::Target, error))?;
        if manifest.is_none() && !self.dry_run {
            report.note(format!(
                "{name} is not copied: the base that it holds is not at the target"
            ));
            return Ok(());
        }
        let copied = self.copy_document(name, true).await;
        self.took(name, copied, report)
    }

    fn took(
        &self,
        name: Name,
        copied: Result<Option<u64>, Trouble>,
        report: &mut Report,
    ) -> Result<(), CopyError> {
        match copied {
            Ok(Some(bytes)) => report.copied(name, bytes),
            Ok(None) => report.there = report.there.saturating_add(1),
            Err(Trouble::Vanished) => {}
            Err(Trouble::Damaged(error)) => report.damaged(&name.to_string(), error.to_string()),
            Err(Trouble::End(error)) => return Err(error),
        }
        Ok(())
    }

    /// Reads the documents of histories that are not known yet.
    async fn update_documents(&mut self, report: &mut Report) -> Result<(), CopyError> {
        let failed = |error| self.failed(Side::Source, error);
        let ids = self.from.history_ids().await.map_err(failed)?;
        let mut new = Vec::new();
        for id in ids {
            if self.docs.contains_key(&id) {
                continue;
            }
            match self.from.history_document(id).await.map_err(failed)? {
                Ok(doc) => new.push(doc),
                // A writer may have died before it.
                Err(error @ ArchiveError::Missing { .. }) => {
                    if self.from.is_begun(id).await.map_err(failed)? {
                        report.damaged(&Name::History(id).to_string(), error.to_string());
                    }
                }
                Err(error) => report.damaged(&Name::History(id).to_string(), error.to_string()),
            }
        }
        for doc in new {
            // Those that it comes after may have ended with something that is not copied yet.
            for id in doc.before() {
                if let Some(known) = self.known.get_mut(&id) {
                    known.settled = false;
                }
            }
            self.docs.insert(doc.id, doc);
        }
        Ok(())
    }

    /// False: not yet.
    async fn copy_history(
        &mut self,
        id: ReplId,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<bool, CopyError> {
        let known = self.known.get(&id).copied();
        if known.is_some_and(|known| known.settled) {
            return Ok(true);
        }
        let Some(doc) = self.docs.get(&id) else {
            return Ok(true);
        };
        let before = (report.total(), report.damaged_objects);
        let outcome = Pass {
            copier: &*self,
            doc,
            all: known.is_none(),
            begin: known.map_or_else(Cursor::default, |known| known.last),
            report,
            progress,
            bad: BTreeSet::new(),
        }
        .run()
        .await?;
        let Outcome::Done { last } = outcome else {
            return Ok(false);
        };
        let is_followed = self
            .docs
            .values()
            .any(|doc| doc.before().any(|it| it == id));
        let is_quiet = before == (report.total(), report.damaged_objects);
        let known = Known {
            // Objects that are damaged are told in each round.
            last: if report.damaged_objects == before.1 {
                last
            } else {
                Cursor::default()
            },
            settled: known.is_some() && is_followed && is_quiet,
        };
        self.known.insert(id, known);
        Ok(true)
    }

    /// Has something begun histories at the target?
    async fn look_for_others(&self, report: &mut Report) -> Result<(), CopyError> {
        let ids = self.to.history_ids().await;
        let ids = ids.map_err(|error| self.failed(Side::Target, error))?;
        let others = ids.iter().filter(|id| !self.docs.contains_key(*id)).count();
        report.only_at_target = others as u64;
        Ok(())
    }
}

/// Refuses two places of which one is the other, or lies within it. URLs as [`crate::store::name_of`] gives them.
///
/// # Errors
/// [`CopyError::Places`].
pub fn check_places(from: &str, to: &str) -> Result<(), CopyError> {
    let within = |inner: &str, outer: &str| {
        let rest = inner.strip_prefix(outer.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    let what = if from == to {
        "are the same place".to_owned()
    } else if within(to, from) {
        format!("overlap: {to} lies within {from}")
    } else if within(from, to) {
        format!("overlap: {from} lies within {to}")
    } else {
        return Ok(());
    };
    Err(CopyError::Places(format!(
        "source and target {what}. Choose another directory, bucket or prefix for the copy"
    )))
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod rounds;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_lies_beside_its_source() {
        for (from, to) in [
            ("file:///a", "file:///b"),
            ("file:///a", "file:///ab"),
            ("gs://a/x", "gs://a/xy"),
            ("gs://a/x", "s3://a/x"),
            ("gs://a/x", "gs://b/x/y"),
        ] {
            check_places(from, to).unwrap();
            check_places(to, from).unwrap();
        }
        for (from, to, told) in [
            ("file:///a", "file:///a", "the same place"),
            (
                "file:///a",
                "file:///a/b",
                "file:///a/b lies within file:///a",
            ),
            ("gs://a", "gs://a/x", "gs://a/x lies within gs://a"),
            ("file:///", "file:///a", "file:///a lies within file:///"),
        ] {
            for error in [check_places(from, to), check_places(to, from)] {
                let error = error.unwrap_err().to_string();
                assert!(error.contains(told), "{error}");
            }
        }
    }
}

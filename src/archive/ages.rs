//! How old bases are, by the clock of the store.

use std::collections::BTreeMap;

use futures::TryStreamExt;

use super::names::{self, Name};
use super::{Archive, ArchiveError, History};
use crate::store::{Created, Listing};
use crate::wire::position::{Offset, ReplId};

/// When a history, and what belongs to its bases, was created, by the clock of the store.
#[derive(Debug, Clone, Default)]
pub struct Ages {
    /// Their manifests.
    pub manifests: BTreeMap<Offset, Created>,
    /// What says that they were found to be sound.
    pub verdicts: BTreeMap<Offset, Created>,
    /// The document of the history.
    pub document: Created,
}

impl Archive {
    /// Lists that.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn ages_of_bases(&self, history: ReplId) -> Result<Ages, ArchiveError> {
        let mut ages = Ages::default();
        let document = Name::History(history).to_string();
        let one = Listing::of(&document).pages_of(1);
        let found = self.store.list_with(one).await.try_next().await?;
        ages.document = found.and_then(|found| found.created);
        let prefix = names::bases(history);
        let mut listed = self.store.list(&prefix, None).await;
        while let Some(object) = listed.try_next().await? {
            match Name::parse(&object.name) {
                Some(Name::BaseManifest(at)) => ages.manifests.insert(at.offset, object.created),
                Some(Name::BaseVerdict(at)) => ages.verdicts.insert(at.offset, object.created),
                _ => None,
            };
        }
        Ok(ages)
    }

    /// When the last object of a log was created, by the clock of the store. What it holds had been received by then.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn age_of_log_end(&self, history: &History) -> Result<Created, ArchiveError> {
        let id = history.doc.id;
        let Some(last) = history.log.last() else {
            return Ok(None);
        };
        let (last, log, spans) = (last.name(id).to_string(), names::log(id), names::spans(id));
        let prefix = if last.starts_with(&log) { &log } else { &spans };
        let wanted = Listing::of(prefix).from(&last);
        let mut listed = self.store.list_with(wanted).await;
        let mut created = None;
        while let Some(object) = listed.try_next().await? {
            created = object.created;
        }
        Ok(created)
    }
}

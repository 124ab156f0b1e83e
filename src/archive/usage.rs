//! What lies in a store, in objects and bytes. One listing of it says that.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use serde::Serialize;

use super::names::Name;
use super::{Archive, ArchiveError};
use crate::wire::position::{Offset, ReplId};

/// Objects, and their stored bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Stored bytes.
    pub bytes: u64,
}

impl Amount {
    /// One more object.
    pub fn add(&mut self, bytes: u64) {
        self.objects = self.objects.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            objects: self.objects.saturating_add(other.objects),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// What a store holds, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Kinds {
    /// RDBs.
    pub bases: Amount,
    /// Segments, seals and spans.
    pub log: Amount,
    /// Manifests, verdicts, and all other documents.
    pub documents: Amount,
    /// Objects whose names no archive gives.
    pub other: Amount,
}

impl Kinds {
    /// Everything in the store.
    #[must_use]
    pub fn total(&self) -> Amount {
        let archive = self.bases.and(self.log).and(self.documents);
        archive.and(self.other)
    }

    /// One more object of the archive.
    #[cfg(feature = "cli")]
    pub(crate) fn add(&mut self, name: Name, bytes: u64) {
        self.count(Some(&name), bytes);
    }

    /// One more object. None: it is not the archive's.
    pub(super) fn count(&mut self, name: Option<&Name>, bytes: u64) {
        let kind = match name {
            Some(Name::BaseData(_)) => &mut self.bases,
            Some(Name::Log { .. } | Name::Span { .. }) => &mut self.log,
            Some(_) => &mut self.documents,
            None => &mut self.other,
        };
        kind.add(bytes);
    }
}

/// What a store holds, with the size of each object of bases and log.
#[derive(Debug, Default)]
pub struct Usage {
    /// In sum.
    pub kinds: Kinds,
    /// Sizes of bases and log, by history.
    pub histories: BTreeMap<ReplId, Sizes>,
}

/// Sizes of what one history holds, ascending by offset.
#[derive(Debug, Default)]
pub struct Sizes {
    /// RDBs: offset and stored bytes.
    pub bases: Vec<(Offset, u64)>,
    /// Segments and seals: number of the first byte, and stored bytes.
    pub log: Vec<(u64, u64)>,
    /// Spans, in the same way.
    pub spans: Vec<(u64, u64)>,
}

impl Usage {
    fn count(&mut self, name: &str, bytes: u64) {
        let name = Name::parse(name);
        self.kinds.count(name.as_ref(), bytes);
        match name {
            Some(Name::BaseData(at)) => {
                let sizes = self.histories.entry(at.history).or_default();
                sizes.bases.push((at.offset, bytes));
            }
            Some(Name::Log {
                history,
                first_byte,
            }) => {
                let sizes = self.histories.entry(history).or_default();
                sizes.log.push((first_byte, bytes));
            }
            Some(Name::Span {
                history,
                first_byte,
                ..
            }) => {
                let sizes = self.histories.entry(history).or_default();
                sizes.spans.push((first_byte, bytes));
            }
            Some(_) | None => {}
        }
    }
}

impl Archive {
    /// Lists the whole store, and reads nothing.
    ///
    /// # Errors
    /// The store failed.
    pub async fn usage(&self) -> Result<Usage, ArchiveError> {
        let mut usage = Usage::default();
        let mut objects = self.store.list("", None).await;
        while let Some(object) = objects.try_next().await? {
            usage.count(&object.name, object.size);
        }
        Ok(usage)
    }
}

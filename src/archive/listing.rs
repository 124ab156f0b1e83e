//! Reads the catalog: one listing of all names, then the documents.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use serde::de::DeserializeOwned;

use super::log_objects::to_read;
use super::names::{self, Name};
use super::usage::Kinds;
use super::{
    Amount, Archive, ArchiveError, BaseManifest, Catalog, Extent, History, HistoryDoc, LogObject,
    Problem, documents,
};
use crate::store::Created;
use crate::wire::position::{Offset, Position, ReplId};

/// Documents that are read at the same time.
pub(super) const PARALLEL_READS: usize = 32;

/// Foreign objects that are named; more are counted.
const FOREIGN_NAMED: usize = 10;

/// What the names of one history's objects show.
#[derive(Default)]
pub(super) struct Listed {
    /// First bytes.
    log: Vec<u64>,
    spans: Vec<LogObject>,
    /// Stored sizes of base data, by offset.
    pub(super) data: BTreeMap<u64, u64>,
    /// Offsets.
    pub(super) manifests: Vec<u64>,
    /// Offsets.
    pub(super) verdicts: Vec<u64>,
    /// Of each base, when the last one was.
    pub(super) drills: BTreeMap<Offset, u64>,
    /// With the times of their creation.
    floors: Vec<(Offset, Created)>,
    /// All objects of the log.
    stored_log: Amount,
}

impl Listed {
    /// Is there something that may be part of a restore?
    fn counts(&self) -> bool {
        !self.manifests.is_empty() || !self.log.is_empty() || !self.spans.is_empty()
    }
}

impl Archive {
    /// Lists what is there. Objects that cannot be used are reported in the catalog, and are no error. It is an error
    /// if the store cannot be read.
    pub async fn catalog(&self) -> Result<Catalog, ArchiveError> {
        let mut catalog = Catalog::default();
        let Catalog {
            problems, stored, ..
        } = &mut catalog;
        let listed = self.list_names("", problems, stored).await?;
        self.add_histories(&mut catalog, listed).await?;
        let mut looked_up = BTreeSet::new();
        while let Some(parent) = missing_parent(&catalog, &looked_up) {
            looked_up.insert(parent);
            // The names of its place may have been listed before it was there.
            let prefix = names::prefix(parent);
            let problems = &mut catalog.problems;
            // They were counted, or came since.
            let listed = self
                .list_names(&prefix, problems, &mut Kinds::default())
                .await?;
            self.add_histories(&mut catalog, listed).await?;
        }
        Ok(catalog)
    }

    pub(super) async fn add_histories(
        &self,
        catalog: &mut Catalog,
        listed: BTreeMap<ReplId, Listed>,
    ) -> Result<(), ArchiveError> {
        let documented: Vec<_> = stream::iter(listed)
            .map(|(id, listed)| async move {
                let doc = self.history_doc(id).await?;
                Ok::<_, ArchiveError>((id, listed, doc))
            })
            .buffered(PARALLEL_READS)
            .try_collect()
            .await?;
        for (id, listed, doc) in documented {
            match doc {
                Ok(doc) => self.add_history(catalog, doc, listed).await?,
                // It is written before the first manifest and the first segment, so no crash explains this.
                Err(error @ ArchiveError::Missing { .. }) if listed.counts() => {
                    let reason = format!(
                        "{error}, but the history has a base or a log: it was deleted or lost"
                    );
                    catalog.unreadable.insert(id, reason);
                }
                Err(ArchiveError::Missing { .. }) => {
                    catalog.problems.push(Problem::Unborn { history: id });
                }
                Err(error) => {
                    catalog.unreadable.insert(id, error.to_string());
                }
            }
        }
        Ok(())
    }

    /// Outside: the store cannot be read. Inside: this document cannot be used.
    pub(super) async fn history_doc(
        &self,
        id: ReplId,
    ) -> Result<Result<HistoryDoc, ArchiveError>, ArchiveError> {
        let object = Name::History(id).to_string();
        let doc = self.document::<HistoryDoc>(&object).await?;
        Ok(doc.and_then(|doc| {
            check_name(&object, &Name::History(doc.id))?;
            Ok(doc)
        }))
    }

    pub(super) async fn list_names(
        &self,
        prefix: &str,
        problems: &mut Vec<Problem>,
        stored: &mut Kinds,
    ) -> Result<BTreeMap<ReplId, Listed>, ArchiveError> {
        let mut histories: BTreeMap<ReplId, Listed> = BTreeMap::new();
        let mut foreign = 0_usize;
        let mut objects = self.store.list(prefix, None).await;
        while let Some(object) = objects.try_next().await? {
            let name = Name::parse(&object.name);
            stored.count(name.as_ref(), object.size);
            match name {
                // Whose it is, and who continues a history, is asked when it matters.
                Some(
                    Name::Archive
                    | Name::Sidecar
                    | Name::First
                    | Name::Clock(_)
                    | Name::Hold(_)
                    | Name::Claim { .. }
                    | Name::Successor(_),
                ) => {}
                Some(Name::History(id)) => {
                    histories.entry(id).or_default();
                }
                Some(Name::BaseData(at)) => {
                    let data = &mut histories.entry(at.history).or_default().data;
                    data.insert(at.offset.0, object.size);
                }
                Some(Name::BaseManifest(at)) => {
                    let manifests = &mut histories.entry(at.history).or_default().manifests;
                    manifests.push(at.offset.0);
                }
                Some(Name::BaseVerdict(at)) => {
                    let verdicts = &mut histories.entry(at.history).or_default().verdicts;
                    verdicts.push(at.offset.0);
                }
                Some(Name::Drill { base, unix_ms }) => {
                    let drills = &mut histories.entry(base.history).or_default().drills;
                    let last = drills.entry(base.offset).or_default();
                    *last = unix_ms.max(*last);
                }
                Some(Name::Floor(at)) => {
                    let floors = &mut histories.entry(at.history).or_default().floors;
                    floors.push((at.offset, object.created));
                }
                Some(Name::Log {
                    history,
                    first_byte,
                }) => {
                    let listed = histories.entry(history).or_default();
                    listed.log.push(first_byte);
                    listed.stored_log.add(object.size);
                }
                Some(Name::Span {
                    history,
                    first_byte,
                    last_byte,
                }) => {
                    let listed = histories.entry(history).or_default();
                    listed.spans.extend(LogObject::span(first_byte, last_byte));
                    listed.stored_log.add(object.size);
                }
                None => {
                    foreign = foreign.saturating_add(1);
                    if foreign <= FOREIGN_NAMED {
                        problems.push(Problem::Foreign { name: object.name });
                    }
                }
            }
        }
        if foreign > FOREIGN_NAMED {
            let count = foreign.saturating_sub(FOREIGN_NAMED);
            problems.push(Problem::MoreForeign { count });
        }
        Ok(histories)
    }

    async fn add_history(
        &self,
        catalog: &mut Catalog,
        doc: HistoryDoc,
        listed: Listed,
    ) -> Result<(), ArchiveError> {
        let id = doc.id;
        let at = |offset: u64| Position {
            history: id,
            offset: Offset(offset),
        };
        let mut history = History {
            doc,
            bases: Vec::new(),
            verified: listed.verdicts.iter().copied().map(Offset).collect(),
            drilled: listed.drills,
            log: to_read(listed.spans, listed.log),
            problems: Vec::new(),
            extent: Extent::whole(),
            floors: self.read_floors(id, &listed.floors).await?,
            stored_log: listed.stored_log,
        };
        let mut unread = None;
        let manifests: Vec<_> = stream::iter(listed.manifests.clone())
            .map(|offset| async move {
                Ok::<_, ArchiveError>((offset, self.manifest(at(offset)).await?))
            })
            .buffered(PARALLEL_READS)
            .try_collect()
            .await?;
        for (offset, manifest) in manifests {
            match manifest {
                Ok(manifest) => {
                    let stored = listed.data.get(&manifest.offset.0).copied();
                    if stored.is_some() || !self.has_data(&manifest).await? {
                        history.problems.extend(data_problem(&manifest, stored));
                    }
                    history.bases.push(manifest);
                }
                Err(error) => {
                    unread = Some(error.to_string());
                    let base = at(offset);
                    history.problems.push(Problem::Manifest { base, error });
                }
            }
        }
        for offset in listed.data.keys() {
            if !listed.manifests.contains(offset) {
                let base = at(*offset);
                history.problems.push(Problem::Stray { base });
            }
        }
        if history.bases.is_empty()
            && let Some(reason) = unread
        {
            catalog.unreadable.insert(id, reason);
        }
        catalog.histories.insert(id, history);
        Ok(())
    }

    /// `catalog` with the base at `at`, if that is there and not listed. Bases are listed before the log, which may
    /// bridge a gap up to one of them.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn with_base(
        &self,
        catalog: &Catalog,
        at: Position,
    ) -> Result<Option<Catalog>, ArchiveError> {
        let is_there = |base: &BaseManifest| base.offset == at.offset;
        let listed = catalog.histories.get(&at.history);
        if listed.is_none_or(|history| history.bases.iter().any(is_there)) {
            return Ok(None);
        }
        let Ok(manifest) = self.manifest(at).await? else {
            return Ok(None);
        };
        let mut catalog = catalog.clone();
        if let Some(history) = catalog.histories.get_mut(&at.history) {
            history.bases.push(manifest);
            history.bases.sort_by_key(|base| base.offset);
            history.extent.unread.remove(&at.offset);
        }
        Ok(Some(catalog))
    }

    /// Data and manifest may have been created while the names were listed, which is not done in one moment.
    pub(super) async fn has_data(&self, manifest: &BaseManifest) -> Result<bool, ArchiveError> {
        let object = Name::BaseData(manifest.position()).to_string();
        Ok(self.read_range(&object, 1).await?.is_some())
    }

    /// The manifest of a base. None: there is none that can be used.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn manifest_of(&self, at: Position) -> Result<Option<BaseManifest>, ArchiveError> {
        Ok(self.manifest(at).await?.ok())
    }

    pub(super) async fn manifest(
        &self,
        at: Position,
    ) -> Result<Result<BaseManifest, ArchiveError>, ArchiveError> {
        let object = Name::BaseManifest(at).to_string();
        let manifest = self.document::<BaseManifest>(&object).await?;
        Ok(manifest.and_then(|manifest| {
            check_name(&object, &Name::BaseManifest(manifest.position()))?;
            Ok(manifest)
        }))
    }

    /// Outside: the store cannot be read. Inside: this document cannot be used.
    async fn document<D: DeserializeOwned>(
        &self,
        object: &str,
    ) -> Result<Result<D, ArchiveError>, ArchiveError> {
        match self.read_document(object).await {
            Err(error @ ArchiveError::Store(_)) => Err(error),
            Err(error) => Ok(Err(error)),
            Ok(None) => Ok(Err(ArchiveError::Missing {
                object: object.to_owned(),
            })),
            Ok(Some(bytes)) => Ok(documents::from_bytes(object, &bytes)),
        }
    }
}

/// A history that another one has as its parent, and that is not in the catalog.
pub(super) fn missing_parent(catalog: &Catalog, looked_up: &BTreeSet<ReplId>) -> Option<ReplId> {
    let parents = catalog.histories.values().filter_map(|it| it.doc.parent);
    let mut missing = parents.map(|parent| parent.history).filter(|id| {
        let is_known = catalog.histories.contains_key(id) || catalog.unreadable.contains_key(id);
        !is_known && !looked_up.contains(id)
    });
    missing.next()
}

fn check_name(object: &str, says: &Name) -> Result<(), ArchiveError> {
    let says = says.to_string();
    if says == object {
        return Ok(());
    }
    Err(ArchiveError::Renamed {
        object: object.to_owned(),
        says,
    })
}

/// What the listing tells against a base; it stays in the catalog, so that reading it says what is wrong.
pub(super) fn data_problem(manifest: &BaseManifest, stored: Option<u64>) -> Option<Problem> {
    let (base, says) = (manifest.position(), manifest.stored_bytes);
    match stored {
        None => Some(Problem::NoData { base }),
        Some(found) if found != says => Some(Problem::Size { base, found, says }),
        Some(_) => None,
    }
}

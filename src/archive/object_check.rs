//! Whole objects as they are stored, for whoever copies them: is an object what its name says, and are its bytes those
//! that were once written? Nothing is decompressed.
//!
//! - A segment, a span and a seal: their header is that of their name, and has the checksum of what follows it.
//! - The data of a base: its manifest has the digest of the object. (That of an earlier version has none, and the size
//!   alone is compared.)
//! - A document: it is of a format that this build knows, and says of itself what its name says.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use super::log::archive_error;
use super::names::{self, Name};
use super::owner::SidecarDoc;
use super::takeover::SuccessorDoc;
use super::{
    ARCHIVE_KIND, Archive, ArchiveDoc, ArchiveError, BaseManifest, FloorDoc, HistoryDoc, HoldDoc,
    LogObject, VerdictDoc, documents,
};
use crate::archive::digest::Digest;
use crate::log::segment::{self, Entry, HEADER_LIMIT, SegmentHeader};
use crate::store::SharedStore;
use crate::wire::crc64::Crc64;
use crate::wire::position::{Position, ReplId};

/// Folders of a history whose objects are listed on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Folder {
    /// Data, manifests and verdicts of bases.
    Bases,
    /// Segments and seals.
    Log,
    /// Spans.
    Spans,
}

impl Folder {
    /// What the names in it begin with.
    pub(crate) fn prefix(self, history: ReplId) -> String {
        match self {
            Self::Bases => names::bases(history),
            Self::Log => names::log(history),
            Self::Spans => names::spans(history),
        }
    }
}

/// What the names of all holds begin with.
pub(crate) const HOLDS: &str = names::HOLDS;

impl Archive {
    /// The archive of a store that may have no `archive.json` yet.
    pub(crate) fn unopened(store: SharedStore) -> Self {
        Self {
            store,
            buffers: crate::runtime::buffers::Buffers::default(),
            kept: None,
            strict: false,
        }
    }

    /// A document as it is stored. None: it is not there.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store, or one that is longer than a document can be.
    pub(crate) async fn document_bytes(&self, name: Name) -> Result<Option<Bytes>, ArchiveError> {
        self.read_document(&name.to_string()).await
    }

    /// Outside: the store cannot be read. Inside: `history.json` cannot be used.
    pub(crate) async fn history_document(
        &self,
        id: ReplId,
    ) -> Result<Result<HistoryDoc, ArchiveError>, ArchiveError> {
        self.history_doc(id).await
    }

    /// Has a history anything that may be part of a restore?
    pub(crate) async fn is_begun(&self, id: ReplId) -> Result<bool, ArchiveError> {
        let mut objects = self.store.list(&names::prefix(id), None).await;
        while let Some(object) = objects.try_next().await? {
            let counts = matches!(
                Name::parse(&object.name),
                Some(Name::BaseManifest(_) | Name::Log { .. } | Name::Span { .. })
            );
            if counts {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The ids of all histories, ascending.
    pub(crate) async fn history_ids(&self) -> Result<Vec<ReplId>, ArchiveError> {
        self.list_ids().await
    }

    /// The header of a span. None: it is not there, or no span has that name.
    pub(crate) async fn span_of(&self, name: Name) -> Result<Option<SegmentHeader>, ArchiveError> {
        let Name::Span { history, .. } = name else {
            return Ok(None);
        };
        let Some(span) = LogObject::span_of(&name.to_string()) else {
            return Ok(None);
        };
        match self.stored_entry(history, span).await? {
            Some(Entry::Segment(header)) => Ok(Some(header)),
            _ => Ok(None),
        }
    }

    /// Outside: the store cannot be read. Inside: the manifest cannot be used.
    pub(crate) async fn manifest_or_why(
        &self,
        at: Position,
    ) -> Result<Result<BaseManifest, ArchiveError>, ArchiveError> {
        self.manifest(at).await
    }
}

/// Is a document what its name says?
///
/// # Errors
/// [`ArchiveError::NewerFormat`], [`ArchiveError::Damaged`], [`ArchiveError::Renamed`].
pub(crate) fn check_document(name: Name, bytes: &[u8]) -> Result<(), ArchiveError> {
    let object = name.to_string();
    let at = |history, offset| Position { history, offset };
    let says = match name {
        Name::Archive => {
            let doc: ArchiveDoc = documents::from_bytes(&object, bytes)?;
            if doc.kind != ARCHIVE_KIND {
                return Err(ArchiveError::damaged(&object, "it is no archive.json"));
            }
            name
        }
        Name::Sidecar => {
            documents::from_bytes::<SidecarDoc>(&object, bytes)?;
            name
        }
        Name::First | Name::Successor(_) => {
            let doc: SuccessorDoc = documents::from_bytes(&object, bytes)?;
            doc.history.map_or(Name::First, Name::Successor)
        }
        Name::Hold(_) => Name::Hold(documents::from_bytes::<HoldDoc>(&object, bytes)?.name),
        Name::History(_) => Name::History(documents::from_bytes::<HistoryDoc>(&object, bytes)?.id),
        Name::BaseManifest(_) => {
            let doc: BaseManifest = documents::from_bytes(&object, bytes)?;
            Name::BaseManifest(doc.position())
        }
        Name::BaseVerdict(_) => {
            let doc: VerdictDoc = documents::from_bytes(&object, bytes)?;
            Name::BaseVerdict(doc.position())
        }
        Name::Floor(_) => {
            let doc: FloorDoc = documents::from_bytes(&object, bytes)?;
            Name::Floor(at(doc.history, doc.offset))
        }
        Name::Clock(_)
        | Name::Drill { .. }
        | Name::Claim { .. }
        | Name::BaseData(_)
        | Name::Log { .. }
        | Name::Span { .. } => {
            return Err(ArchiveError::damaged(&object, "it is no such document"));
        }
    };
    match says == name {
        true => Ok(()),
        false => Err(ArchiveError::Renamed {
            object,
            says: says.to_string(),
        }),
    }
}

/// The base of a hold, whose document was checked.
pub(crate) fn held_base(name: Name, bytes: &[u8]) -> Option<Position> {
    let doc = documents::from_bytes::<HoldDoc>(&name.to_string(), bytes);
    doc.ok().map(|doc| doc.base)
}

/// Looks at the bytes of an object of the log, or of the data of a base, as they pass.
pub(crate) struct ObjectCheck {
    object: String,
    kind: Kind,
    /// Bytes that have passed.
    passed: u64,
}

enum Kind {
    /// The header is not whole yet.
    Header(Name, BytesMut),
    /// What follows it has this checksum so far, and this length.
    Payload(Box<Entry>, Box<Crc64>, u64),
    /// The data of a base.
    Data(Box<BaseManifest>, Box<Digest>),
}

impl ObjectCheck {
    /// Of a segment, a seal or a span.
    pub(crate) fn of_log(name: Name) -> Self {
        Self {
            object: name.to_string(),
            kind: Kind::Header(name, BytesMut::new()),
            passed: 0,
        }
    }

    /// Of the data of a base.
    pub(crate) fn of_base(manifest: BaseManifest) -> Self {
        Self {
            object: Name::BaseData(manifest.position()).to_string(),
            kind: Kind::Data(Box::new(manifest), Box::default()),
            passed: 0,
        }
    }

    /// Takes in the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.passed = self.passed.saturating_add(bytes.len() as u64);
        match &mut self.kind {
            Kind::Data(_, digest) => digest.update(bytes),
            Kind::Payload(_, crc, length) => {
                crc.update(bytes);
                *length = length.saturating_add(bytes.len() as u64);
            }
            Kind::Header(name, head) => {
                head.extend_from_slice(bytes);
                let decoded = segment::decode_entry(head);
                let decoded = decoded.map_err(|error| archive_error(&self.object, &error))?;
                match decoded {
                    Some((entry, length)) => {
                        let says = LogObject::of(&entry).name(entry.history());
                        if says != *name {
                            return Err(ArchiveError::Renamed {
                                object: self.object.clone(),
                                says: says.to_string(),
                            });
                        }
                        let rest = head.get(length..).unwrap_or_default();
                        let mut crc = Crc64::new();
                        crc.update(rest);
                        let length = rest.len() as u64;
                        self.kind = Kind::Payload(Box::new(entry), Box::new(crc), length);
                    }
                    None if head.len() > HEADER_LIMIT => {
                        return Err(self.damaged("its header does not end"));
                    }
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// The object has ended: was it whole, and right? Returns what it is, if it is one of the log.
    pub(crate) fn finish(self) -> Result<Option<Entry>, ArchiveError> {
        let truncated = |found: u64, expected: u64| ArchiveError::Truncated {
            object: self.object.clone(),
            reason: format!("{found} of {expected} bytes are there"),
        };
        match &self.kind {
            Kind::Header(..) => Err(ArchiveError::Truncated {
                object: self.object.clone(),
                reason: "its header does not end".to_owned(),
            }),
            Kind::Payload(entry, crc, length) => {
                let (expected, stored_crc) = match entry.as_ref() {
                    Entry::Segment(header) => (header.payload_stored, header.stored_crc64),
                    Entry::Seal(_) => (0, Crc64::new().value()),
                };
                match *length {
                    length if length < expected => return Err(truncated(length, expected)),
                    length if length > expected => {
                        return Err(self.damaged("there are bytes after its end"));
                    }
                    _ => {}
                }
                if crc.value() != stored_crc {
                    return Err(self.damaged(format!(
                        "its stored bytes have the CRC-64 {:016x}, and its header says {stored_crc:016x}",
                        crc.value()
                    )));
                }
                Ok(Some(entry.as_ref().clone()))
            }
            Kind::Data(manifest, digest) => {
                if self.passed < manifest.stored_bytes {
                    return Err(truncated(self.passed, manifest.stored_bytes));
                }
                if self.passed > manifest.stored_bytes {
                    return Err(self.damaged("there are bytes after its end"));
                }
                let known = manifest.digest.as_ref().filter(|digest| digest.is_known());
                match known.filter(|known| known.stored != digest.text()) {
                    Some(known) => Err(self.damaged(format!(
                        "its digest is {}, and its manifest says {}",
                        digest.text(),
                        known.stored
                    ))),
                    None => Ok(None),
                }
            }
        }
    }

    fn damaged(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::damaged(&self.object, reason)
    }
}

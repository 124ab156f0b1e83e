//! The second pass over the snapshot and the log: the new snapshot.

use std::mem;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::mpsc;

use super::state::{apply, entry_of};
use super::{BaseStop, Limits, RebuildError, Selection, Source, Stand, Survey};
use crate::archive::ArchiveError;
use crate::crc64::Crc64;
use crate::keyspace::{Dialect, Footprint, Keyspace, Libraries, slot_of};
use crate::position::Boundary;
use crate::rdb::cursor::{put_number, put_string};
use crate::rdb::magic;
use crate::rdb::reader::{self, Fate, Item, ReadError, Reader, Sink};
use crate::store::StoreError;
use crate::world;

/// Bytes that are gathered before they go out.
const CHUNK: usize = 1 << 20;
/// Chunks that wait for the consumer.
const AHEAD: usize = 2;

const SELECTDB: u8 = 0xFE;
const RESIZEDB: u8 = 0xFB;
const AUX: u8 = 0xFA;
const MODULE_AUX: u8 = 0xF7;
const FUNCTION2: u8 = 0xF5;
const SLOT_INFO: u8 = 0xF4;
const KEY_META_OR_SLOT_IMPORT: u8 = 0xF3;
const EXPIRETIME_MS: u8 = 0xFC;
const END: u8 = 0xFF;
const MAGIC: u8 = 0;
/// The type of `KeyDB`'s jobs.
const CRON: u8 = 64;

/// The RDB of the chosen keys at `survey.end`, without functions and what modules say beside their values. It ends as that of
/// [`write()`] does.
pub fn write_selected(
    source: Source,
    survey: Survey,
    selection: Selection,
    limits: Limits,
) -> BoxStream<'static, Result<Bytes, RebuildError>> {
    begin(source, survey, Stand::Nowhere, Some(selection), limits)
}

/// The RDB of the data set at `survey.end`. Its last item is an error unless everything was right.
pub fn write(
    source: Source,
    survey: Survey,
    stand: Stand,
    limits: Limits,
) -> BoxStream<'static, Result<Bytes, RebuildError>> {
    begin(source, survey, stand, None, limits)
}

fn begin(
    source: Source,
    survey: Survey,
    stand: Stand,
    selection: Option<Selection>,
    limits: Limits,
) -> BoxStream<'static, Result<Bytes, RebuildError>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    world::spawn(async move {
        let mut out = Out {
            bytes: BytesMut::new(),
            crc: Crc64::new(),
            to: sender.clone(),
        };
        let last = match run(&source, survey, stand, selection, limits, &mut out).await {
            Ok(()) => Ok(Bytes::new()),
            Err(error) => Err(error),
        };
        // Nobody may be left to hear it.
        let _ = sender.send(last).await;
    });
    // The empty piece is the end that counts; a channel that just closes is not.
    let pieces = stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver: mpsc::Receiver<Result<Bytes, RebuildError>> = receiver?;
        match receiver.recv().await {
            Some(Ok(piece)) if piece.is_empty() => None,
            Some(Ok(piece)) => Some((Ok(piece), Some(receiver))),
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(interrupted()), None)),
        }
    });
    pieces.fuse().boxed()
}

fn interrupted() -> RebuildError {
    RebuildError::Archive(ArchiveError::Store(StoreError::Transient {
        what: "cannot make a snapshot".to_owned(),
        cause: "the process is shutting down".to_owned(),
    }))
}

async fn run(
    source: &Source,
    survey: Survey,
    stand: Stand,
    selection: Option<Selection>,
    limits: Limits,
    out: &mut Out,
) -> Result<(), RebuildError> {
    let base = source.base.offset;
    let bad = |error| RebuildError::Base {
        base,
        source: Box::new(error),
    };
    let end = survey.end;
    let mut builder = Builder {
        survey,
        stand,
        selection,
        limits,
        start: source.start(),
        space: None,
        libraries: Libraries::default(),
        aux: None,
        base_db: 0,
        now: Some(0),
        written_db: None,
        keys_begun: false,
        after: Vec::new(),
        bytes: BytesMut::new(),
    };
    let mut reader = Reader::new(limits.memory);
    let mut chunks = source.archive.read_base(&source.base).await?;
    while let Some(chunk) = chunks.next().await {
        reader.push(&chunk?, &mut builder).map_err(bad)?;
        out.take(&mut builder.bytes).await?;
    }
    reader.finish().map_err(bad)?;
    // The names of all touched keys, which the key space has as well.
    builder.survey.footprint = Footprint::default();
    let Builder {
        space: Some(space),
        after,
        written_db,
        selection,
        ..
    } = builder
    else {
        return Err(bad(ReadError::Sink(BaseStop::Unmodelled("nothing"))));
    };
    let space = apply(source, space, end.offset, limits).await?;
    entries(&space, selection.as_ref(), written_db, out).await?;
    out.bytes.extend_from_slice(&after);
    out.bytes.extend_from_slice(&[END]);
    out.finish().await
}

/// What became of the touched keys.
async fn entries(
    space: &Keyspace,
    selection: Option<&Selection>,
    mut written_db: Option<u32>,
    out: &mut Out,
) -> Result<(), RebuildError> {
    let dialect = space.dialect();
    let mut record = Vec::new();
    let mut payload = Vec::new();
    for (db, entries) in space.entries() {
        for (key, entry) in entries {
            record.clear();
            payload.clear();
            let kind = entry.value.encode(dialect, &mut payload);
            if selection.is_some_and(|wanted| !wanted.wants(db, key, dialect.family, kind)) {
                continue;
            }
            if written_db != Some(db) {
                record.push(SELECTDB);
                put_number(&mut record, db.into());
                written_db = Some(db);
            }
            if let Some(expiry) = entry.expiry {
                record.push(EXPIRETIME_MS);
                record.extend_from_slice(&expiry.to_le_bytes());
            }
            record.extend_from_slice(&entry.prefix);
            record.push(kind);
            put_string(&mut record, key);
            out.bytes.extend_from_slice(&record);
            out.bytes.extend_from_slice(&payload);
            if out.bytes.len() >= CHUNK {
                out.flush().await?;
            }
        }
    }
    Ok(())
}

/// Where the new snapshot goes.
struct Out {
    bytes: BytesMut,
    crc: Crc64,
    to: mpsc::Sender<Result<Bytes, RebuildError>>,
}

impl Out {
    async fn take(&mut self, from: &mut BytesMut) -> Result<(), RebuildError> {
        if self.bytes.is_empty() {
            mem::swap(&mut self.bytes, from);
        } else {
            self.bytes.extend_from_slice(from);
            from.clear();
        }
        if self.bytes.len() >= CHUNK {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), RebuildError> {
        let bytes = self.bytes.split().freeze();
        self.crc.update(&bytes);
        self.send(bytes).await
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), RebuildError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.to.send(Ok(bytes)).await.map_err(|_| interrupted())
    }

    /// The rest, and the checksum.
    async fn finish(&mut self) -> Result<(), RebuildError> {
        self.flush().await?;
        let checksum = self.crc.value().to_le_bytes();
        self.send(Bytes::copy_from_slice(&checksum)).await
    }
}

/// Gets the old snapshot, and keeps what is touched.
struct Builder {
    survey: Survey,
    stand: Stand,
    /// Of these keys alone.
    selection: Option<Selection>,
    limits: Limits,
    start: Boundary,
    /// Known with the magic.
    space: Option<Keyspace>,
    libraries: Libraries,
    /// Our own AUX fields were written.
    aux: Option<()>,
    /// The database of the snapshot at hand.
    base_db: u32,
    /// Its number after the log; none: its keys are gone.
    now: Option<u32>,
    /// The database that is selected in what was written.
    written_db: Option<u32>,
    keys_begun: bool,
    /// What modules say after the keys.
    after: Vec<u8>,
    bytes: BytesMut,
}

impl Builder {
    /// The AUX fields are over: ours come last among them.
    fn end_front(&mut self) {
        if self.aux.replace(()).is_some() {
            return;
        }
        let Stand::At(id) = self.stand else {
            return;
        };
        let end = self.survey.end;
        let fields = [
            ("repl-stream-db", end.db.to_string()),
            ("repl-id", id.to_string()),
            ("repl-offset", end.offset.to_string()),
        ];
        let mut record = Vec::new();
        for (name, value) in fields {
            record.push(AUX);
            put_string(&mut record, name.as_bytes());
            put_string(&mut record, value.as_bytes());
        }
        self.bytes.extend_from_slice(&record);
    }

    /// Functions come before the keys.
    fn begin_keys(&mut self) -> Result<(), BaseStop> {
        if mem::replace(&mut self.keys_begun, true) {
            return Ok(());
        }
        self.end_front();
        if self.selection.is_some() {
            return Ok(());
        }
        for command in self.survey.footprint.functions() {
            self.libraries.apply(command)?;
        }
        let mut record = Vec::new();
        for code in self.libraries.sources() {
            record.push(FUNCTION2);
            put_string(&mut record, code);
        }
        self.bytes.extend_from_slice(&record);
        Ok(())
    }

    /// Selects the database of the key that is about to pass.
    fn select(&mut self) {
        let Some(now) = self.now else {
            return;
        };
        if self.written_db == Some(now) {
            return;
        }
        let mut record = vec![SELECTDB];
        put_number(&mut record, now.into());
        self.bytes.extend_from_slice(&record);
        self.written_db = Some(now);
    }

    fn magic(&mut self, raw: &[u8]) -> Result<(), BaseStop> {
        let (family, version) = magic(raw).ok_or(BaseStop::Unmodelled("an unknown format"))?;
        let dialect = Dialect { family, version };
        let space = Keyspace::new(&self.survey.footprint, dialect, self.start.db);
        self.space = Some(space);
        self.bytes.extend_from_slice(raw);
        Ok(())
    }

    fn aux(&mut self, raw: &[u8]) -> Result<(), BaseStop> {
        let (name, _) = reader::aux(raw)?;
        match name.to_ascii_lowercase().as_slice() {
            b"repl-id" | b"repl-offset" | b"repl-stream-db" => return Ok(()),
            b"mvcc-tstamp" | b"keydb-subexpire-key" | b"keydb-subexpire-when" => {
                return Err(BaseStop::Unmodelled("KeyDB's data beside its keys"));
            }
            _ => {}
        }
        self.bytes.extend_from_slice(raw);
        Ok(())
    }
}

impl Sink for Builder {
    type Error = BaseStop;

    fn record(&mut self, opcode: u8, raw: &[u8]) -> Result<(), BaseStop> {
        match opcode {
            MAGIC => return self.magic(raw),
            AUX => return self.aux(raw),
            FUNCTION2 | MODULE_AUX | RESIZEDB | SLOT_INFO if self.selection.is_some() => {}
            // Not touched, so not written anew.
            FUNCTION2 if self.survey.footprint.functions().is_empty() => {
                self.end_front();
                self.bytes.extend_from_slice(raw);
            }
            FUNCTION2 => {
                let mut input = crate::rdb::cursor::Cursor::new(raw.get(1..).unwrap_or_default());
                self.libraries.load(&input.string()?)?;
                return Ok(());
            }
            MODULE_AUX if self.keys_begun => self.after.extend_from_slice(raw),
            MODULE_AUX => {
                self.end_front();
                self.bytes.extend_from_slice(raw);
            }
            SELECTDB => {
                self.begin_keys()?;
                let mut input = crate::rdb::cursor::Cursor::new(raw.get(1..).unwrap_or_default());
                self.base_db = u32::try_from(input.number()?)
                    .map_err(|_| BaseStop::Unmodelled("an unknown database"))?;
                self.now = self.survey.footprint.layout().now(self.base_db);
            }
            // Hints about sizes.
            RESIZEDB | SLOT_INFO if self.now.is_some() => {
                self.select();
                self.bytes.extend_from_slice(raw);
            }
            RESIZEDB | SLOT_INFO => {}
            KEY_META_OR_SLOT_IMPORT => {
                return Err(BaseStop::Unmodelled("an unfinished import of slots"));
            }
            END => self.begin_keys()?,
            _ => return Err(BaseStop::Unmodelled("a record of an unknown type")),
        }
        Ok(())
    }

    fn fate(&mut self, db: u32, key: &[u8], kind: u8) -> Fate {
        if self.survey.footprint.wants(db, key) {
            return Fate::Take;
        }
        let Some(now) = self.now else {
            return Fate::Drop;
        };
        let family = self.space.as_ref().map(|space| space.dialect().family);
        let unwanted =
            |wanted: &Selection| !wanted.wants(now, key, family.unwrap_or_default(), kind);
        if self.selection.as_ref().is_some_and(unwanted) {
            return Fate::Drop;
        }
        let slots = self.survey.footprint.slots();
        if !slots.is_empty() {
            let slot = slot_of(key);
            if slots.iter().any(|(from, to)| (*from..=*to).contains(&slot)) {
                return Fate::Drop;
            }
        }
        Fate::Pass
    }

    fn pass(&mut self, raw: &[u8]) -> Result<(), BaseStop> {
        self.begin_keys()?;
        self.select();
        self.bytes.extend_from_slice(raw);
        Ok(())
    }

    fn item(&mut self, item: Item<'_>) -> Result<(), BaseStop> {
        self.begin_keys()?;
        if item.kind == CRON {
            return Err(BaseStop::Unmodelled("a touched job of KeyDB"));
        }
        let Some(space) = &mut self.space else {
            return Ok(());
        };
        space.load(item.db, item.key, entry_of(&item));
        if space.weight() > self.limits.memory {
            return Err(BaseStop::Memory {
                limit: self.limits.memory,
            });
        }
        Ok(())
    }
}

//! The second pass over the snapshot and the log: the new snapshot.

use std::mem;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::oneshot;

use super::rdb_out::{Counts, Out};
use super::state::{apply, entry_of};
use super::{BaseStop, Limits, RebuildError, Selection, Source, Stand, Survey};
use crate::model::{Dialect, Keyspace, Libraries, Wanted, slot_of};
use crate::runtime;
use crate::runtime::pipe::{Sender, pipe};
use crate::wire::position::Boundary;
use crate::wire::rdb::cursor::put_string;
use crate::wire::rdb::numbers::{opcode, value_type};
use crate::wire::rdb::reader::{self, Fate, Item, ReadError, Reader, Sink};
use crate::wire::rdb::{Family, magic};

/// The old snapshot is read in pieces of this size, so that not much more than a chunk is gathered to go out.
const PIECE: usize = 64 << 10;
/// Chunks that wait for the consumer.
const AHEAD: usize = 2;

/// The RDB of the chosen keys at `survey.end`, and what it holds. It ends as
/// that of [`write()`] does.
pub fn write_selected(
    source: Source,
    survey: Survey,
    selection: Selection,
    limits: Limits,
) -> (
    BoxStream<'static, Result<Bytes, RebuildError>>,
    oneshot::Receiver<Counts>,
) {
    let to = |sender| Out::new(Some(sender), Some(selection));
    begin(source, survey, Stand::Nowhere, limits, to)
}

/// The RDB of the data set at `survey.end`. Its last item is an error unless everything was right.
pub fn write(
    source: Source,
    survey: Survey,
    stand: Stand,
    limits: Limits,
) -> BoxStream<'static, Result<Bytes, RebuildError>> {
    write_counted(source, survey, stand, limits).0
}

/// The same, and what it holds. This is known when the last item has come, unless that is an error.
pub fn write_counted(
    source: Source,
    survey: Survey,
    stand: Stand,
    limits: Limits,
) -> (
    BoxStream<'static, Result<Bytes, RebuildError>>,
    oneshot::Receiver<Counts>,
) {
    begin(source, survey, stand, limits, |sender| {
        Out::new(Some(sender), None)
    })
}

/// The same for a server that loads it while it is made. Bytes come every few seconds, however long the log is that is
/// applied meanwhile: a server leaves a master that is silent.
pub fn write_served(
    source: Source,
    survey: Survey,
    stand: Stand,
    limits: Limits,
) -> (
    BoxStream<'static, Result<Bytes, RebuildError>>,
    oneshot::Receiver<Counts>,
) {
    begin(source, survey, stand, limits, |sender| {
        Out::new(Some(sender), None).never_quiet()
    })
}

/// What the RDB of [`write()`] would hold, without making one.
///
/// # Errors
/// [`RebuildError`].
pub async fn count(
    source: &Source,
    survey: Survey,
    limits: Limits,
) -> Result<Counts, RebuildError> {
    let out = Out::new(None, None);
    run(source, survey, Stand::Nowhere, limits, out).await
}

fn begin(
    source: Source,
    mut survey: Survey,
    stand: Stand,
    limits: Limits,
    to: impl FnOnce(Sender<Result<Bytes, RebuildError>>) -> Out + Send + 'static,
) -> (
    BoxStream<'static, Result<Bytes, RebuildError>>,
    oneshot::Receiver<Counts>,
) {
    let (sender, receiver) = pipe(AHEAD);
    let (counted, counts) = oneshot::channel();
    runtime::spawn(async move {
        let mut out = to(sender.clone());
        out.given = mem::take(&mut survey.given);
        // Nobody may be left to hear how it ended.
        match run(&source, survey, stand, limits, out).await {
            Ok(counts) => {
                let _ = counted.send(counts);
                sender.end().await;
            }
            Err(error) => {
                let _ = sender.send(Err(error)).await;
            }
        }
    });
    (receiver.into_stream(), counts)
}

async fn run(
    source: &Source,
    survey: Survey,
    stand: Stand,
    limits: Limits,
    out: Out,
) -> Result<Counts, RebuildError> {
    let base = source.base.offset;
    let bad = |error| match error {
        ReadError::Sink(BaseStop::Function { after, why }) => RebuildError::Command { after, why },
        error => RebuildError::Base {
            base,
            source: Box::new(error),
        },
    };
    let end = survey.end;
    let mut builder = Builder {
        survey,
        stand,
        limits,
        start: source.start(),
        least_version: source.least_version,
        is_valkey: source.is_valkey(),
        space: None,
        libraries: Libraries::default(),
        aux: None,
        base_db: 0,
        now: Some(0),
        keys_begun: false,
        after: Vec::new(),
        out,
    };
    let mut reader = Reader::new(limits.memory);
    let mut chunks = source.archive.read_base(&source.base).await?;
    while let Some(chunk) = chunks.next().await {
        for piece in chunk?.chunks(PIECE) {
            reader.push(piece, &mut builder).map_err(bad)?;
            builder.out.flush_full().await?;
        }
        builder.out.keep_alive(reader.is_between()).await?;
        tokio::task::yield_now().await;
    }
    reader.finish().map_err(bad)?;
    let Builder {
        space: Some(space),
        after,
        mut out,
        ..
    } = builder
    else {
        return Err(bad(ReadError::Sink(BaseStop::Unmodelled("nothing"))));
    };
    let space = apply(source, space, end.offset, limits, Some(&mut out)).await?;
    out.entries(&space).await?;
    out.given(&space).await?;
    out.bytes.extend_from_slice(&after);
    out.bytes.push(opcode::EOF);
    out.finish().await
}

/// Gets the old snapshot, and keeps what is touched.
struct Builder {
    survey: Survey,
    stand: Stand,
    limits: Limits,
    start: Boundary,
    least_version: Option<u32>,
    is_valkey: bool,
    /// Known with the magic.
    space: Option<Keyspace>,
    libraries: Libraries,
    /// Our own AUX fields were written.
    aux: Option<()>,
    /// The database of the snapshot at hand.
    base_db: u32,
    /// Its number after the log. None: its keys are gone.
    now: Option<u32>,
    keys_begun: bool,
    /// What modules say after the keys.
    after: Vec<u8>,
    out: Out,
}

impl Builder {
    /// Are functions, and what modules say beside their values, wanted?
    fn has_functions(&self) -> bool {
        let selection = self.out.selection.as_ref();
        selection.is_none_or(|selection| selection.functions)
    }

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
        for (name, value) in fields {
            self.out.bytes.push(opcode::AUX);
            put_string(&mut self.out.bytes, name.as_bytes());
            put_string(&mut self.out.bytes, value.as_bytes());
        }
    }

    /// Functions come before the keys.
    fn begin_keys(&mut self) -> Result<(), BaseStop> {
        if mem::replace(&mut self.keys_begun, true) {
            return Ok(());
        }
        self.end_front();
        if !self.has_functions() {
            return Ok(());
        }
        let functions = self.survey.footprint.functions().iter();
        for (command, after) in functions.zip(&self.survey.functions_after) {
            let applied = self.libraries.apply(command);
            applied.map_err(|why| BaseStop::Function { after: *after, why })?;
        }
        for code in self.libraries.sources() {
            self.out.counts.library();
            self.out.bytes.push(opcode::FUNCTION2);
            put_string(&mut self.out.bytes, code);
        }
        Ok(())
    }

    fn magic(&mut self, raw: &[u8]) -> Result<(), BaseStop> {
        let (family, stored) = magic(raw).ok_or(BaseStop::Unmodelled("an unknown format"))?;
        let least = self.least_version.filter(|_| family == Family::Redis);
        let version = least.map_or(stored, |least| stored.max(least));
        let dialect = Dialect { family, version };
        let mut space = Keyspace::passing(&mut self.survey.footprint, dialect, self.start.db);
        space.set_valkey(self.is_valkey);
        self.space = Some(space);
        // The types of older versions are types of newer ones, too.
        match version == stored {
            true => self.out.bytes.extend_from_slice(raw),
            false => self
                .out
                .bytes
                .extend_from_slice(format!("REDIS{version:04}").as_bytes()),
        }
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
        self.out.bytes.extend_from_slice(raw);
        Ok(())
    }
}

impl Sink for Builder {
    type Error = BaseStop;

    fn record(&mut self, opcode: u8, raw: &[u8]) -> Result<(), BaseStop> {
        match opcode {
            reader::HEADER => return self.magic(raw),
            opcode::AUX => return self.aux(raw),
            opcode::FUNCTION2 | opcode::MODULE_AUX if !self.has_functions() => {}
            opcode::RESIZEDB | opcode::SLOT_INFO if self.out.selection.is_some() => {}
            // Not touched, so not written anew.
            opcode::FUNCTION2 if self.survey.footprint.functions().is_empty() => {
                self.end_front();
                self.out.counts.library();
                self.out.bytes.extend_from_slice(raw);
            }
            opcode::FUNCTION2 => {
                let mut input =
                    crate::wire::rdb::cursor::Cursor::new(raw.get(1..).unwrap_or_default());
                self.libraries.load(&input.string()?)?;
                return Ok(());
            }
            opcode::MODULE_AUX if self.keys_begun => self.after.extend_from_slice(raw),
            opcode::MODULE_AUX => {
                self.end_front();
                self.out.bytes.extend_from_slice(raw);
            }
            opcode::SELECTDB => {
                self.begin_keys()?;
                let mut input =
                    crate::wire::rdb::cursor::Cursor::new(raw.get(1..).unwrap_or_default());
                self.base_db = u32::try_from(input.number()?)
                    .map_err(|_| BaseStop::Unmodelled("an unknown database"))?;
                self.now = self.survey.footprint.layout().now(self.base_db);
            }
            // Hints about sizes.
            opcode::RESIZEDB | opcode::SLOT_INFO => {
                if let Some(now) = self.now {
                    self.out.select(now);
                    self.out.bytes.extend_from_slice(raw);
                }
            }
            opcode::KEY_META => {
                return Err(BaseStop::Unmodelled("an unfinished import of slots"));
            }
            opcode::EOF => self.begin_keys()?,
            _ => return Err(BaseStop::Unmodelled("a record of an unknown type")),
        }
        Ok(())
    }

    const AHEAD: bool = true;

    fn fate(&mut self, db: u32, key: &[u8], kind: u8, has_meta: bool) -> Fate {
        match self.space.as_ref().map(|space| space.wants(db, key)) {
            Some(Wanted::Yes) => return Fate::Take,
            // Those are not overwritten.
            Some(Wanted::Overwritten) if has_meta || kind == value_type::CRON => return Fate::Take,
            Some(Wanted::Overwritten) => return Fate::Drop,
            Some(Wanted::No) | None => {}
        }
        let Some(now) = self.now else {
            return Fate::Drop;
        };
        let family = self.space.as_ref().map(|space| space.dialect().family);
        let unwanted =
            |wanted: &Selection| !wanted.wants(now, key, family.unwrap_or_default(), kind);
        if self.out.selection.as_ref().is_some_and(unwanted) {
            return Fate::Drop;
        }
        let slots = self.survey.footprint.slots();
        if !slots.is_empty() {
            let slot = slot_of(key);
            if slots.iter().any(|(from, to)| (*from..=*to).contains(&slot)) {
                return Fate::Drop;
            }
        }
        self.out.counts.key(now);
        Fate::Pass
    }

    fn pass(&mut self, raw: &[u8]) -> Result<(), BaseStop> {
        self.begin_keys()?;
        if let Some(now) = self.now {
            self.out.select(now);
        }
        self.out.bytes.extend_from_slice(raw);
        Ok(())
    }

    fn item(&mut self, item: Item<'_>) -> Result<(), BaseStop> {
        self.begin_keys()?;
        if item.kind == value_type::CRON {
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

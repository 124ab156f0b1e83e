//! What a recording tells: a snapshot, the feed after it, and where connections ended and ids changed.

use bytes::{Bytes, BytesMut};

use super::{Kind, Recording};
use crate::position::{Offset, Position, ReplId};
use crate::proto::line::LineReader;
use crate::proto::master::{Master, MasterEvent};
use crate::proto::transfer::{Framing, Splitter};

/// Why a recording tells no story that can be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoryError {
    /// The first connection gives no snapshot.
    #[error(
        "the recording holds no full sync: it cannot be replayed to a replica that has nothing"
    )]
    NoFullSync,
    /// A later connection begins anew.
    #[error(
        "connection {connection} of the recording is a second full sync: cut it off with `backfeed fixture slice`"
    )]
    SecondFullSync {
        /// Counted from 1.
        connection: usize,
    },
    /// A connection does not go on where the one before it ended, or earlier.
    #[error(
        "connection {connection} of the recording goes on at offset {at}, and only {known} are known"
    )]
    Gap {
        /// Counted from 1.
        connection: usize,
        /// Its first offset.
        at: Offset,
        /// The last offset before.
        known: Offset,
    },
    /// The same offsets hold different bytes.
    #[error("connection {connection} of the recording repeats bytes differently")]
    Differs {
        /// Counted from 1.
        connection: usize,
    },
    /// What the master said is not the replication protocol.
    #[error("connection {connection} of the recording is no replication: {what}")]
    Protocol {
        /// Counted from 1.
        connection: usize,
        /// Why.
        what: &'static str,
    },
}

/// A stretch of the feed that came over one connection, under one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The id that the master said.
    pub id: ReplId,
    /// The offset at which the connection went on.
    pub from: Offset,
    /// The last offset that came over it.
    pub to: Offset,
    /// Did the recording end it, or is the feed simply over?
    pub closed: bool,
}

/// When bytes of the feed came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Microseconds since the connection was made.
    pub after_us: u64,
    /// Everything up to here had come.
    pub offset: Offset,
}

/// A recording, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// Where the snapshot stands.
    pub base: Position,
    /// How it came.
    pub framing: Framing,
    /// The snapshot, an RDB.
    pub rdb: Bytes,
    /// The bytes of the feed after the snapshot, over all connections.
    pub feed: Bytes,
    /// The connections that gave feed, in order; the first is that of the snapshot.
    pub stretches: Vec<Stretch>,
    /// When the feed came.
    pub arrivals: Vec<Arrival>,
}

impl Story {
    /// Reads a recording.
    ///
    /// # Errors
    /// [`StoryError`].
    pub fn of(recording: &Recording) -> Result<Self, StoryError> {
        let mut story: Option<Self> = None;
        let mut feed = BytesMut::new();
        for (index, connection) in connections(recording).into_iter().enumerate() {
            let connection = connection.read(index.saturating_add(1))?;
            if let Some(sync) = connection {
                sync.add_to(&mut story, &mut feed)?;
            }
        }
        let mut story = story.ok_or(StoryError::NoFullSync)?;
        story.feed = feed.freeze();
        Ok(story)
    }

    /// The last offset.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.base.offset.plus(self.feed.len() as u64)
    }

    /// The bytes of the feed after `from`, up to `to`.
    #[must_use]
    pub fn between(&self, from: Offset, to: Offset) -> Bytes {
        let index = |offset: Offset| {
            let index = usize::try_from(offset.since(self.base.offset)).unwrap_or(usize::MAX);
            index.min(self.feed.len())
        };
        self.feed.slice(index(from).min(index(to))..index(to))
    }
}

/// The records of one connection.
struct Connection {
    opened_us: u64,
    replica: Vec<u8>,
    /// When, and what.
    master: Vec<(u64, Bytes)>,
    closed: bool,
}

fn connections(recording: &Recording) -> Vec<Connection> {
    let mut all: Vec<Connection> = Vec::new();
    for record in &recording.records {
        match (record.kind, all.last_mut()) {
            (Kind::Open, _) => all.push(Connection {
                opened_us: record.at_us,
                replica: Vec::new(),
                master: Vec::new(),
                closed: false,
            }),
            (_, None) => {}
            (Kind::Master, Some(last)) => last.master.push((record.at_us, record.bytes.clone())),
            (Kind::Replica, Some(last)) => last.replica.extend_from_slice(&record.bytes),
            (Kind::Close, Some(last)) => last.closed = true,
        }
    }
    all
}

/// How the master answered.
enum Begin {
    Full { at: Position, framing: Framing },
    Continue { id: Option<ReplId>, from: Position },
}

/// One connection that came to a feed.
struct Sync {
    number: usize,
    begin: Begin,
    rdb: BytesMut,
    rdb_ended: bool,
    feed: BytesMut,
    /// When bytes came, and how many there were then.
    arrivals: Vec<(u64, u64)>,
    closed: bool,
}

impl Connection {
    /// None: it ended before the master granted anything (`-LOADING`, a refusal, a cut in the handshake).
    fn read(self, number: usize) -> Result<Option<Sync>, StoryError> {
        let wanted = self.wanted();
        let wrong = |what| StoryError::Protocol {
            connection: number,
            what,
        };
        let mut lines = LineReader::default();
        let mut granted: Option<Position> = None;
        let mut splitter: Option<Splitter> = None;
        let mut sync: Option<Sync> = None;
        for (at_us, chunk) in self.master {
            let after_us = at_us.saturating_sub(self.opened_us);
            let mut chunk = chunk;
            while !chunk.is_empty() {
                if let Some(sync) = &mut sync {
                    chunk = sync.take(&mut splitter, chunk, after_us);
                    continue;
                }
                let (line, taken) = lines
                    .take(&chunk)
                    .map_err(|_| wrong("a line without an end in the handshake"))?;
                let _ = chunk.split_to(taken.min(chunk.len()));
                let Some(line) = line else { continue };
                let line = String::from_utf8_lossy(&line).into_owned();
                let begin = if let (Some(at), Some(header)) = (granted, line.strip_prefix('$')) {
                    let framing = Framing::parse(header.as_bytes())
                        .ok_or(wrong("the header of the snapshot"))?;
                    splitter = Some(Splitter::new(framing.clone()));
                    Begin::Full { at, framing }
                } else if let Some(rest) = line.strip_prefix("+FULLRESYNC ") {
                    granted =
                        Some(position(rest).ok_or(wrong("+FULLRESYNC without id and offset"))?);
                    continue;
                } else if let Some(rest) = line.strip_prefix("+CONTINUE") {
                    let from = wanted.ok_or(wrong("+CONTINUE without a PSYNC that asks for it"))?;
                    let id = rest.trim().parse().ok();
                    Begin::Continue { id, from }
                } else {
                    continue;
                };
                let rdb_ended = splitter.as_ref().is_none_or(Splitter::ended);
                sync = Some(Sync {
                    number,
                    begin,
                    rdb: BytesMut::new(),
                    rdb_ended,
                    feed: BytesMut::new(),
                    arrivals: Vec::new(),
                    closed: false,
                });
            }
        }
        if let Some(sync) = &mut sync {
            sync.closed = self.closed;
        }
        Ok(sync)
    }

    /// What the replica asked for in its PSYNC.
    fn wanted(&self) -> Option<Position> {
        let mut requests = Master::new(None);
        // Whatever comes after what cannot be read is no PSYNC.
        let _ = requests.push(&self.replica);
        while let Some(event) = requests.next_event() {
            if let MasterEvent::SyncRequested { id, offset, .. } = event {
                let (history, offset) = id.zip(offset)?;
                return Some(Position { history, offset });
            }
        }
        None
    }
}

impl Sync {
    fn take(&mut self, splitter: &mut Option<Splitter>, chunk: Bytes, after_us: u64) -> Bytes {
        if let (Some(splitter), false) = (splitter, self.rdb_ended) {
            let rdb = &mut self.rdb;
            let rest = splitter.push(chunk, |part| rdb.extend_from_slice(&part));
            self.rdb_ended = splitter.ended();
            return rest;
        }
        self.feed.extend_from_slice(&chunk);
        self.arrivals.push((after_us, self.feed.len() as u64));
        Bytes::new()
    }

    fn add_to(self, story: &mut Option<Story>, feed: &mut BytesMut) -> Result<(), StoryError> {
        let connection = self.number;
        let length = self.feed.len() as u64;
        let (id, from) = match (&self.begin, &story) {
            (Begin::Full { at, .. }, None) => (at.history, at.offset),
            (Begin::Full { .. }, Some(_)) => return Err(StoryError::SecondFullSync { connection }),
            (Begin::Continue { .. }, None) => return Err(StoryError::NoFullSync),
            (Begin::Continue { id, from }, Some(_)) => (id.unwrap_or(from.history), from.offset),
        };
        if let (Begin::Full { at, framing }, None) = (self.begin, &story) {
            // One that broke off within the snapshot; the recorder tried again.
            if !self.rdb_ended {
                return Ok(());
            }
            *story = Some(Story {
                base: at,
                framing,
                rdb: self.rdb.freeze(),
                feed: Bytes::new(),
                stretches: Vec::new(),
                arrivals: Vec::new(),
            });
        }
        let Some(story) = story else { return Ok(()) };
        let known = story.base.offset.plus(feed.len() as u64);
        if from > known || from < story.base.offset {
            return Err(StoryError::Gap {
                connection,
                at: from,
                known,
            });
        }
        let start = usize::try_from(from.since(story.base.offset)).unwrap_or(usize::MAX);
        let have = feed.get(start..).unwrap_or_default();
        let both = have.len().min(self.feed.len());
        if have.get(..both) != self.feed.get(..both) {
            return Err(StoryError::Differs { connection });
        }
        feed.extend_from_slice(self.feed.get(both..).unwrap_or_default());
        let arrivals = self.arrivals.iter().map(|(after_us, bytes)| Arrival {
            after_us: *after_us,
            offset: from.plus(*bytes),
        });
        story.arrivals.extend(arrivals);
        story.stretches.push(Stretch {
            id,
            from,
            to: from.plus(length),
            closed: self.closed,
        });
        Ok(())
    }
}

fn position(text: &str) -> Option<Position> {
    let mut words = text.split_ascii_whitespace();
    Some(Position {
        history: words.next()?.parse().ok()?,
        offset: Offset(words.next()?.parse().ok()?),
    })
}

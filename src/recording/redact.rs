//! Redaction: values, and keys too if that is wanted, become letters and digits without a meaning.
//!
//! Every argument keeps its length, and the same text becomes the same text everywhere, so that a replica does the same with
//! it. Integers become integers. What a command holds beside keys and values (options, scores, times, ids of streams) stays.
//! Of a command that is not in the table below it is not known which of its arguments are values, so it is refused; and so is
//! a snapshot with keys or functions, as values in it are packed together, and compressed: record a server from its start on.
//!
//! The same text becomes the same text: who can guess a value can check the guess, and two short ones may become the same.

use bytes::{Bytes, BytesMut};

use super::{Kind, Record, Recording, Story, StoryError};
use crate::crc64::Crc64;
use crate::position::{Boundary, Offset};
use crate::rdb::Walker;
use crate::resp::{FeedScanner, encode_command};

/// What is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redaction {
    /// Values, members, fields.
    Values,
    /// And keys.
    Keys,
}

impl std::str::FromStr for Redaction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "values" => Ok(Self::Values),
            "keys" => Ok(Self::Keys),
            _ => Err("write `values`, or `keys` for values and keys".to_owned()),
        }
    }
}

/// Why a recording cannot be redacted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedactError {
    /// It cannot be understood.
    #[error("{0}")]
    Story(#[from] StoryError),
    /// The snapshot has something in it.
    #[error(
        "the snapshot in the recording holds keys or functions, which cannot be redacted: record a server that is empty at the \
         beginning"
    )]
    Snapshot,
    /// A command whose values are not known.
    #[error(
        "the command {name} at offset {at} cannot be redacted: it is not known which of its arguments are values"
    )]
    Command {
        /// Its name.
        name: String,
        /// The offset before it.
        at: Offset,
    },
    /// Not RESP.
    #[error("the feed in the recording cannot be read: {0}")]
    Feed(String),
}

/// What the arguments are, after the name: `k` key, `v` value, `-` neither; then what the others are, again and again
/// (nothing: neither).
const COMMANDS: &[(&str, &str, &str)] = &[
    ("APPEND", "kv", ""),
    ("COPY", "kk", ""),
    ("DECR", "k", ""),
    ("DECRBY", "k", ""),
    ("DEL", "", "k"),
    ("EXEC", "", ""),
    ("EXPIRE", "k", ""),
    ("EXPIREAT", "k", ""),
    ("FLUSHALL", "", ""),
    ("FLUSHDB", "", ""),
    ("GETDEL", "k", ""),
    ("GETSET", "kv", ""),
    ("HDEL", "k", "v"),
    ("HINCRBY", "kv", ""),
    ("HMSET", "k", "v"),
    ("HSET", "k", "v"),
    ("HSETNX", "k", "v"),
    ("INCR", "k", ""),
    ("INCRBY", "k", ""),
    ("LINSERT", "k-vv", ""),
    ("LMOVE", "kk", ""),
    ("LPOP", "k", ""),
    ("LPUSH", "k", "v"),
    ("LPUSHX", "k", "v"),
    ("LREM", "k-v", ""),
    ("LSET", "k-v", ""),
    ("LTRIM", "k", ""),
    ("MOVE", "k", ""),
    ("MSET", "", "kv"),
    ("MSETNX", "", "kv"),
    ("MULTI", "", ""),
    ("PERSIST", "k", ""),
    ("PEXPIRE", "k", ""),
    ("PEXPIREAT", "k", ""),
    ("PFADD", "k", "v"),
    ("PFMERGE", "", "k"),
    ("PING", "", ""),
    ("PSETEX", "k-v", ""),
    ("PUBLISH", "vv", ""),
    ("RENAME", "kk", ""),
    ("RENAMENX", "kk", ""),
    ("REPLCONF", "", ""),
    ("RPOP", "k", ""),
    ("RPOPLPUSH", "kk", ""),
    ("RPUSH", "k", "v"),
    ("RPUSHX", "k", "v"),
    ("SADD", "k", "v"),
    ("SDIFFSTORE", "", "k"),
    ("SELECT", "", ""),
    ("SET", "kv", ""),
    ("SETBIT", "k", ""),
    ("SETEX", "k-v", ""),
    ("SETNX", "kv", ""),
    ("SETRANGE", "k-v", ""),
    ("SINTERSTORE", "", "k"),
    ("SMOVE", "kkv", ""),
    ("SREM", "k", "v"),
    ("SUNIONSTORE", "", "k"),
    ("SWAPDB", "", ""),
    ("UNLINK", "", "k"),
    ("XDEL", "k", ""),
    ("XTRIM", "k", ""),
    ("ZINCRBY", "k-v", ""),
    ("ZREM", "k", "v"),
    ("ZREMRANGEBYRANK", "k", ""),
    ("ZREMRANGEBYSCORE", "k", ""),
];
/// Options of `ZADD` before the first score.
const ZADD_OPTIONS: [&str; 6] = ["NX", "XX", "GT", "LT", "CH", "INCR"];

impl Recording {
    /// The same conversation without what it is about. A command that is not whole at the end is left out.
    ///
    /// # Errors
    /// [`RedactError`]: something in it cannot be redacted, and nothing was.
    pub fn redacted(&self, what: Redaction) -> Result<Self, RedactError> {
        let story = Story::of(self)?;
        let mut walker = Walker::new();
        let walked = walker.push(&story.rdb);
        let summary = walker.summary();
        let empty = summary.databases.is_empty() && summary.functions == 0;
        if walked.is_err() || !walker.is_complete() || !empty || summary.unwalked.is_some() {
            return Err(RedactError::Snapshot);
        }
        let feed = redact_feed(&story, what)?;
        Ok(self.with_feed(&story, &feed))
    }

    /// The same conversation with the first so many bytes of the feed.
    ///
    /// # Errors
    /// [`StoryError`].
    pub fn with_feed_of(&self, bytes: usize) -> Result<Self, StoryError> {
        let story = Story::of(self)?;
        let feed = story.feed.get(..bytes).unwrap_or(&story.feed);
        Ok(self.with_feed(&story, feed))
    }

    /// Puts another feed in the place of the recorded one, which may be shorter.
    fn with_feed(&self, story: &Story, feed: &[u8]) -> Self {
        let mut records = Vec::new();
        let mut stretches = story.stretches.iter();
        let mut left: Vec<Record> = Vec::new();
        let all = self.records.iter().cloned().chain([Record {
            at_us: 0,
            kind: Kind::Open,
            bytes: Bytes::new(),
        }]);
        // Connection by connection, from behind: its last bytes are feed, and all before them stays.
        for record in all {
            if record.kind == Kind::Open && !left.is_empty() {
                let mut connection = std::mem::take(&mut left);
                if has_feed(&connection)
                    && let Some(stretch) = stretches.next()
                {
                    let mut at = stretch.to.since(story.base.offset);
                    let mut upto = stretch.to.since(stretch.from);
                    for record in connection.iter_mut().rev() {
                        if record.kind != Kind::Master || upto == 0 {
                            continue;
                        }
                        let length = (record.bytes.len() as u64).min(upto);
                        upto = upto.saturating_sub(length);
                        let from = at.saturating_sub(length);
                        record.bytes = replaced(&record.bytes, length, feed, from, at);
                        at = from;
                    }
                }
                records.extend(connection);
            }
            left.push(record);
        }
        records.retain(|record| {
            !record.bytes.is_empty() || !matches!(record.kind, Kind::Master | Kind::Replica)
        });
        Self {
            began_unix_us: self.began_unix_us,
            records,
        }
    }
}

/// Did the master grant something that came to a feed? As [`Story`] sees it.
fn has_feed(connection: &[Record]) -> bool {
    let alone = Recording {
        began_unix_us: 0,
        records: connection.to_vec(),
    };
    match Story::of(&alone) {
        Ok(_) => true,
        // `+CONTINUE` alone is no story, and is feed.
        Err(StoryError::NoFullSync) => {
            memchr::memmem::find(&alone.said(Kind::Master), b"+CONTINUE").is_some()
        }
        Err(_) => false,
    }
}

/// The last `length` of the bytes become those of the feed `from` to `to`, as far as it reaches.
fn replaced(bytes: &Bytes, length: u64, feed: &[u8], from: u64, to: u64) -> Bytes {
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(feed.len());
    let keep = bytes
        .len()
        .saturating_sub(usize::try_from(length).unwrap_or(usize::MAX));
    let mut out = BytesMut::from(bytes.get(..keep).unwrap_or_default());
    out.extend_from_slice(feed.get(index(from)..index(to)).unwrap_or_default());
    out.freeze()
}

fn redact_feed(story: &Story, what: Redaction) -> Result<Vec<u8>, RedactError> {
    let mut scanner = FeedScanner::new(Boundary {
        offset: story.base.offset,
        db: 0,
    });
    let mut ends = Vec::new();
    scanner
        .scan(&story.feed, |command| {
            ends.push((command.start, command.end))
        })
        .map_err(|error| RedactError::Feed(error.to_string()))?;
    let mut out = Vec::new();
    for (start, end) in ends {
        // Newlines between commands count in the offset.
        let before = start
            .since(story.base.offset)
            .saturating_sub(out.len() as u64);
        (0..before).for_each(|_| out.push(b'\n'));
        let raw = story.between(start, end);
        let args = arguments(&raw);
        let redacted = redact(&args, what).ok_or_else(|| RedactError::Command {
            name: String::from_utf8_lossy(args.first().copied().unwrap_or_default()).into_owned(),
            at: start,
        })?;
        let redacted: Vec<&[u8]> = redacted.iter().map(Vec::as_slice).collect();
        encode_command(&redacted, &mut out);
    }
    Ok(out)
}

/// Of a command that was scanned: each line `$<length>` is followed by so many bytes.
fn arguments(raw: &[u8]) -> Vec<&[u8]> {
    let mut args = Vec::new();
    let mut rest = raw;
    let _ = line(&mut rest);
    while let Some(head) = line(&mut rest) {
        let length = std::str::from_utf8(head.get(1..).unwrap_or_default());
        let length: usize = length.ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let (arg, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        args.push(arg);
        rest = after.get(2..).unwrap_or_default();
    }
    args
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let at = memchr::memchr(b'\r', rest)?;
    let (line, after) = rest.split_at_checked(at)?;
    *rest = after.get(2..).unwrap_or_default();
    Some(line)
}

/// None: it is not known what its arguments are.
fn redact(args: &[&[u8]], what: Redaction) -> Option<Vec<Vec<u8>>> {
    let (name, rest) = args.split_first()?;
    let upper = String::from_utf8_lossy(name).to_ascii_uppercase();
    let classes: Vec<u8> = if upper == "ZADD" {
        zadd(rest)
    } else {
        let (_, fixed, again) = COMMANDS.iter().find(|(known, _, _)| *known == upper)?;
        let again = if again.is_empty() { "-" } else { again };
        fixed
            .bytes()
            .chain(again.bytes().cycle())
            .take(rest.len())
            .collect()
    };
    let mut all = vec![name.to_vec()];
    for (arg, class) in rest.iter().zip(classes) {
        let hide = class == b'v' || (class == b'k' && what == Redaction::Keys);
        all.push(if hide { hidden(arg) } else { arg.to_vec() });
    }
    Some(all)
}

fn zadd(args: &[&[u8]]) -> Vec<u8> {
    let is_option = |arg: &&&[u8]| {
        ZADD_OPTIONS
            .iter()
            .any(|option| arg.eq_ignore_ascii_case(option.as_bytes()))
    };
    let options = args.iter().skip(1).take_while(is_option).count();
    let options = std::iter::repeat_n(b'-', options);
    let pairs = b"-v".iter().copied().cycle();
    [b'k']
        .into_iter()
        .chain(options)
        .chain(pairs)
        .take(args.len())
        .collect()
}

/// As long, and always the same for the same text.
fn hidden(text: &[u8]) -> Vec<u8> {
    // No vowel, so that nothing is read as a number (`inf`, `nan`).
    const LETTERS: &[u8; 16] = b"bcdfghjklmpqrstv";
    const DIGITS: &[u8; 8] = b"12345678";
    let is_integer = std::str::from_utf8(text).is_ok_and(|text| text.parse::<i64>().is_ok());
    let mut state = Crc64::of(text);
    let mut next = || {
        // splitmix64, so that all bits of the checksum are in each.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 59)
            .unwrap_or(0)
    };
    let mut pick = |from: &[u8]| {
        let index = next().checked_rem(from.len()).unwrap_or(0);
        from.get(index).copied().unwrap_or(b'b')
    };
    text.iter()
        .map(|byte| match (is_integer, byte) {
            (true, b'-' | b'+') => *byte,
            (true, _) => pick(DIGITS),
            (false, _) => pick(LETTERS),
        })
        .collect()
}

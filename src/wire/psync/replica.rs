//! Our side of a replication link: the handshake, the payload of a full sync, the feed.

use bytes::Bytes;

use crate::wire::position::{Offset, Position, ReplId};
use crate::wire::psync::line::LineReader;
use crate::wire::psync::transfer::{Framing, Splitter};
use crate::wire::resp::encode_command;

/// What we say in the handshake.
#[derive(Debug, Clone, Default)]
pub struct Handshake {
    /// `AUTH [user] password`, when the source needs it.
    pub auth: Option<Auth>,
    /// `REPLCONF version`: for Valkey 9 and later, which otherwise writes RDB 11 and fails on field TTLs (A.4).
    pub version: Option<&'static str>,
    /// Go on after this point, instead of asking for everything.
    pub resume: Option<Position>,
    /// `REPLCONF rdb-only`: only the snapshot, and no feed after it. Such a replica never counts for `WAIT` (A.4).
    /// Servers before 6.2 do not know the option.
    pub rdb_only: bool,
}

/// User and password.
#[derive(Clone)]
pub struct Auth {
    /// ACL user. None for the default user.
    pub username: Option<String>,
    /// The password. Never shown.
    pub password: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What a master sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `+FULLRESYNC`: a payload with this position follows.
    FullResync(Position),
    /// `+CONTINUE`: the feed continues after the wanted position, under a new id if one is given.
    Continue(Option<ReplId>),
    /// Bytes of the RDB.
    Payload(Bytes),
    /// The RDB is complete.
    PayloadEnd,
    /// Bytes of the command feed.
    Feed(Bytes),
}

/// Why a master did not go along.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// It will, later: loading, its own master is away, busy.
    #[error("the server is not ready: {0}")]
    NotReady(String),
    /// Wrong or missing password.
    #[error(
        "the server refused the credentials: {0}. Check user and password (or the password file)"
    )]
    Auth(String),
    /// The user may not replicate.
    #[error(
        "the user may not replicate: {0}. Allow it: ACL SETUSER <user> +psync +replconf +ping +info"
    )]
    Permission(String),
    /// There is no PSYNC here.
    #[error(
        "the server does not offer replication to backfeed: {0}. Managed services (ElastiCache, MemoryDB, Memorystore, \
         Azure Cache and most proxies) forbid PSYNC. backfeed needs a server that you run yourself"
    )]
    NoReplication(String),
    /// Not the replication protocol.
    #[error("this does not look like a Redis server: {0}")]
    NotRedis(String),
}

impl Refusal {
    /// Is there no use in trying again without a change?
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::NotReady(_))
    }
}

/// ```text
///  Auth ──▶ Capa ──▶ Version ──▶ RdbOnly ──▶ Psync ──+CONTINUE──▶ Feed
///                                              └──+FULLRESYNC──▶ Header ──$──▶ Payload ──▶ Feed
/// ```
#[derive(Debug)]
enum State {
    Auth,
    Capa,
    Version,
    RdbOnly,
    Psync,
    Header,
    Payload(Splitter),
    Feed,
}

/// The state machine of one link. Give it what arrives, and send what it writes to `out`.
#[derive(Debug)]
pub struct Replica {
    state: State,
    handshake: Handshake,
    line: LineReader,
}

impl Replica {
    /// Begins a link. `out` gets the first bytes to send.
    #[must_use]
    pub fn new(handshake: Handshake, out: &mut Vec<u8>) -> Self {
        let mut replica = Self {
            state: State::Auth,
            handshake,
            line: LineReader::default(),
        };
        if let Some(auth) = &replica.handshake.auth {
            let user = auth.username.as_deref().map(str::as_bytes);
            let args: Vec<&[u8]> = [Some(&b"AUTH"[..]), user, Some(auth.password.as_bytes())]
                .into_iter()
                .flatten()
                .collect();
            encode_command(&args, out);
        } else {
            replica.send_capa(out);
        }
        replica
    }

    /// Is this link in its feed?
    #[must_use]
    pub fn in_feed(&self) -> bool {
        matches!(self.state, State::Feed)
    }

    /// The part of the conversation that this is, for messages.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match self.state {
            State::Header | State::Payload(_) => "during the full sync",
            State::Feed => "while following the feed",
            _ => "in the handshake",
        }
    }

    /// Bytes of the payload that are still missing, if the master said how many there are.
    #[must_use]
    pub fn payload_remaining(&self) -> Option<u64> {
        if let State::Payload(splitter) = &self.state {
            splitter.remaining()
        } else {
            None
        }
    }

    /// Takes bytes from the master. Appends the events to `events` and the answers to `out`.
    ///
    /// # Errors
    /// [`Refusal`], during the handshake. The link has then ended.
    pub fn receive(
        &mut self,
        mut chunk: Bytes,
        events: &mut Vec<Event>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        while !chunk.is_empty() {
            match &mut self.state {
                State::Feed => {
                    events.push(Event::Feed(std::mem::take(&mut chunk)));
                }
                State::Payload(splitter) => {
                    chunk = splitter.push(chunk, |part| events.push(Event::Payload(part)));
                    if splitter.ended() {
                        self.state = State::Feed;
                        events.push(Event::PayloadEnd);
                    }
                }
                _ => {
                    let (line, taken) = self.line.take(&chunk).map_err(|_| {
                        Refusal::NotRedis(
                            "the server sent a line without an end during the handshake".to_owned(),
                        )
                    })?;
                    let _ = chunk.split_to(taken.min(chunk.len()));
                    if let Some(line) = line {
                        self.reply(&line, events, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn reply(
        &mut self,
        line: &[u8],
        events: &mut Vec<Event>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let text = String::from_utf8_lossy(line).into_owned();
        if !matches!(line.first(), Some(b'+' | b'-' | b'$')) {
            return Err(Refusal::NotRedis(format!(
                "it answered `{}`",
                shorten(&text)
            )));
        }
        match self.state {
            State::Auth if text.starts_with('+') => self.send_capa(out),
            State::Auth => return Err(refusal_of_auth(&text)),
            State::Capa => {
                tolerate_unknown_option(&text)?;
                self.send_version_or_psync(out);
            }
            // An old server does not know these options: that is fine.
            State::Version => self.send_rdb_only_or_psync(out),
            State::RdbOnly => self.send_psync(out),
            State::Psync => self.psync_reply(&text, events)?,
            State::Header => self.payload_header(&text, events)?,
            State::Payload(_) | State::Feed => {}
        }
        Ok(())
    }

    fn send_capa(&mut self, out: &mut Vec<u8>) {
        encode_command(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"], out);
        self.state = State::Capa;
    }

    fn send_version_or_psync(&mut self, out: &mut Vec<u8>) {
        if let Some(version) = self.handshake.version {
            encode_command(&[b"REPLCONF", b"version", version.as_bytes()], out);
            self.state = State::Version;
        } else {
            self.send_rdb_only_or_psync(out);
        }
    }

    fn send_rdb_only_or_psync(&mut self, out: &mut Vec<u8>) {
        if self.handshake.rdb_only {
            encode_command(&[b"REPLCONF", b"rdb-only", b"1"], out);
            self.state = State::RdbOnly;
        } else {
            self.send_psync(out);
        }
    }

    fn send_psync(&mut self, out: &mut Vec<u8>) {
        if let Some(at) = self.handshake.resume {
            let next = at.offset.next_byte().to_string();
            encode_command(
                &[b"PSYNC", at.history.as_str().as_bytes(), next.as_bytes()],
                out,
            );
        } else {
            encode_command(&[b"PSYNC", b"?", b"-1"], out);
        }
        self.state = State::Psync;
    }

    fn psync_reply(&mut self, text: &str, events: &mut Vec<Event>) -> Result<(), Refusal> {
        let mut words = text.split_ascii_whitespace();
        match words.next() {
            Some("+FULLRESYNC") => {
                let position = full_resync(words.next(), words.next()).ok_or_else(|| {
                    Refusal::NotRedis(format!("it answered PSYNC with `{}`", shorten(text)))
                })?;
                self.state = State::Header;
                events.push(Event::FullResync(position));
                Ok(())
            }
            Some("+CONTINUE") if self.handshake.resume.is_some() => {
                let id = words.next().map(str::parse).transpose().map_err(|_| {
                    Refusal::NotRedis(format!("it answered PSYNC with `{}`", shorten(text)))
                })?;
                self.state = State::Feed;
                events.push(Event::Continue(id));
                Ok(())
            }
            Some(word) if word.starts_with('-') => Err(refusal(text)),
            _ => Err(Refusal::NotRedis(format!(
                "it answered PSYNC with `{}`",
                shorten(text)
            ))),
        }
    }

    fn payload_header(&mut self, text: &str, events: &mut Vec<Event>) -> Result<(), Refusal> {
        if text.starts_with('-') {
            return Err(refusal(text));
        }
        let framing = text
            .strip_prefix('$')
            .and_then(|header| Framing::parse(header.as_bytes()))
            .ok_or_else(|| {
                Refusal::NotRedis(format!("it began a full sync with `{}`", shorten(text)))
            })?;
        let splitter = Splitter::new(framing);
        if splitter.ended() {
            self.state = State::Feed;
            events.push(Event::PayloadEnd);
        } else {
            self.state = State::Payload(splitter);
        }
        Ok(())
    }
}

/// `REPLCONF ACK <offset>`.
pub fn encode_ack(offset: Offset, out: &mut Vec<u8>) {
    encode_command(&[b"REPLCONF", b"ACK", offset.to_string().as_bytes()], out);
}

fn full_resync(id: Option<&str>, offset: Option<&str>) -> Option<Position> {
    Some(Position {
        history: id?.parse().ok()?,
        offset: Offset(offset?.parse().ok()?),
    })
}

fn tolerate_unknown_option(text: &str) -> Result<(), Refusal> {
    let unknown_option =
        text.starts_with("-ERR Unrecognized REPLCONF") || text.starts_with("-ERR unrecognized");
    if text.starts_with('+') || unknown_option {
        Ok(())
    } else {
        Err(refusal(text))
    }
}

/// What an error reply means (PROTOCOL.md A.3).
fn refusal(text: &str) -> Refusal {
    let message = shorten(text.trim_start_matches('-'));
    let lower = text.to_ascii_lowercase();
    match text.split_ascii_whitespace().next().unwrap_or_default() {
        "-NOAUTH" | "-WRONGPASS" => Refusal::Auth(message),
        "-NOPERM" => Refusal::Permission(message),
        "-ERR" if lower.contains("operation not permitted") => Refusal::Auth(message),
        "-ERR" if lower.contains("unknown command") || lower.contains("not supported") => {
            Refusal::NoReplication(message)
        }
        "-ERR" if lower.contains("disabled") || lower.contains("not allowed") => {
            Refusal::NoReplication(message)
        }
        "-DENIED" => Refusal::Auth(message),
        // -LOADING -MASTERDOWN -NOMASTERLINK -BUSY -MISCONF, "-ERR BGSAVE failed", and what future servers may say.
        _ => Refusal::NotReady(message),
    }
}

fn refusal_of_auth(text: &str) -> Refusal {
    match refusal(text) {
        Refusal::NotReady(message) if text.starts_with("-ERR") => Refusal::Auth(message),
        // A server older than 6.0 says `-ERR unknown command` to AUTH with a user as to anything it does not know.
        Refusal::NoReplication(message) => Refusal::Auth(message),
        other => other,
    }
}

/// Keeps a foreign text from flooding a log, and what we sent out of it: a server that does not know `AUTH` repeats its
/// arguments.
pub(crate) fn shorten(text: &str) -> String {
    const SHOWN: usize = 200;
    let said = text
        .split(", with args beginning with")
        .next()
        .unwrap_or(text);
    // Our text continues after it.
    said.trim_end_matches('.')
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN)
        .collect()
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;

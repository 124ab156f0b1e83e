//! The master's side of replication (PROTOCOL.md E.1): our answers to a fresh server that is our replica.
//!
//! ```text
//! target: PING                              us: +PONG   (not ready: -LOADING; the target tries again each second)
//! target: AUTH [user] password              us: +OK
//! target: REPLCONF listening-port|ip-address|capa …   us: +OK     anything else: -ERR
//! target: PSYNC <id> <byte> | SYNC          us: (\n)* +FULLRESYNC <id> <offset>  (\n)* $<length> <RDB> <feed>
//!                                                   or  $EOF:<mark> <RDB> <mark>, and <feed> after its first ACK
//! target: REPLCONF ACK <offset>             never answered
//! ```

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;

pub use super::request::RequestError;
use super::request::Requests;
use super::transfer::Framing;
use crate::wire::position::{Offset, ReplId};

/// What the target must say in `AUTH`. `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user (`masteruser` of the target). `None` accepts any user name, and no user name.
    pub username: Option<String>,
    /// The password (`masterauth` of the target).
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &"***")
            .finish()
    }
}

/// Why a target was given nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// It continued without `AUTH`.
    NoPassword,
    /// It gave another user or password.
    WrongPassword,
}

/// What the target did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterEvent {
    /// It asks for our data. Answer with [`Master::full_resync`] or [`Master::resume`].
    SyncRequested {
        /// The history it says it is on (`?`: none).
        id: Option<ReplId>,
        /// The offset it has, one less than the byte number that it wants (`-1`: none).
        offset: Option<Offset>,
        /// `false` for the old `SYNC`, which gets no `+FULLRESYNC` line.
        psync: bool,
    },
    /// It has processed the feed up to this offset.
    Ack(Offset),
}

/// The state of a connection.
///
/// ```text
///            PSYNC, SYNC            full_resync            payload_header          payload_done
/// Handshake ────────────▶ Requested ───────────▶ Preparing ──────────────▶ Payload ────────────▶ Feed
///     │ ▲                     │                                                                   ▲
///     └─┘ -LOADING, -NOAUTH   └─────────────────────────── resume ────────────────────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterState {
    /// Commands are answered.
    Handshake,
    /// A sync was requested. From here on the target would read a reply as feed, so no command is answered any more.
    Requested,
    /// `+FULLRESYNC` was given.
    Preparing,
    /// `$<length>` or `$EOF:<mark>` was given: RDB bytes, the mark if there is one, and nothing else.
    Payload,
    /// The feed.
    Feed,
}

/// The state machine. Give it what came with [`Self::push`], take [`Self::next_event`] until there is none, and send
/// [`Self::take_output`].
#[derive(Debug)]
pub struct Master {
    requests: Requests,
    events: VecDeque<MasterEvent>,
    output: Vec<u8>,
    state: MasterState,
    credentials: Option<Credentials>,
    authenticated: bool,
    denial: Option<Denial>,
    not_ready: Option<String>,
    info: Option<String>,
    capabilities: Vec<String>,
    listening_port: Option<u16>,
    psync: bool,
    failed: Option<RequestError>,
}

/// The text that servers use.
const WRONG_PASSWORD: &str = "-WRONGPASS invalid username-password pair or user is disabled.";

/// Most `capa` names that are remembered. Further ones get `+OK` and are forgotten. Real servers send two to five.
const MAX_CAPABILITIES: usize = 32;

impl Master {
    /// A connection at its start. With `credentials`, nothing but `AUTH` is answered before they were given.
    #[must_use]
    pub fn new(credentials: Option<Credentials>) -> Self {
        Self {
            requests: Requests::default(),
            events: VecDeque::new(),
            output: Vec::new(),
            state: MasterState::Handshake,
            authenticated: credentials.is_none(),
            credentials,
            denial: None,
            not_ready: None,
            info: None,
            capabilities: Vec::new(),
            listening_port: None,
            psync: true,
            failed: None,
        }
    }

    /// While this is set, `PING`, `PSYNC` and `SYNC` get the answer `-LOADING backfeed <reason>`. A replica then tries
    /// again, as with a master that is still loading.
    pub fn set_not_ready(&mut self, reason: Option<String>) {
        self.not_ready = reason;
    }

    /// The answer to `INFO`. Without it, the command is unknown.
    pub fn set_info(&mut self, info: Option<String>) {
        self.info = info;
    }

    /// Takes bytes in chunks of any size.
    ///
    /// # Errors
    /// What is no command, or is too long. The connection is then of no use. Commands before it have taken effect.
    pub fn push(&mut self, input: &[u8]) -> Result<(), RequestError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.requests.extend(input);
        loop {
            match self.requests.next() {
                Ok(Some(args)) => self.command(&args),
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.failed = Some(error);
                    return Err(error);
                }
            }
        }
    }

    /// The next thing the target did.
    pub fn next_event(&mut self) -> Option<MasterEvent> {
        self.events.pop_front()
    }

    /// Replies to send now. Empty when there are none.
    #[must_use]
    pub fn take_output(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.output))
    }

    /// The state of the connection.
    #[must_use]
    pub fn state(&self) -> MasterState {
        self.state
    }

    /// Why the target was given nothing so far, if the reason is a missing or wrong password.
    #[must_use]
    pub fn denial(&self) -> Option<Denial> {
        self.denial
    }

    /// What the target must say in `AUTH`.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// The `capa` names that the target announced, in its spelling.
    #[must_use]
    pub fn capabilities(&self) -> &[String] {
        &self.capabilities
    }

    /// The port that the target announced.
    #[must_use]
    pub fn listening_port(&self) -> Option<u16> {
        self.listening_port
    }

    /// `+FULLRESYNC <id> <offset>`, or nothing for a target that sent `SYNC`.
    #[must_use]
    pub fn full_resync(&mut self, id: ReplId, offset: Offset) -> Bytes {
        self.state = MasterState::Preparing;
        if self.psync {
            Bytes::from(format!("+FULLRESYNC {id} {offset}\r\n"))
        } else {
            Bytes::new()
        }
    }

    /// `+CONTINUE <id>`, without the id for a target that did not announce `psync2`.
    #[must_use]
    pub fn resume(&mut self, id: ReplId) -> Bytes {
        self.state = MasterState::Feed;
        if self.has_capability("psync2") {
            Bytes::from(format!("+CONTINUE {id}\r\n"))
        } else {
            Bytes::from_static(b"+CONTINUE\r\n")
        }
    }

    /// `$<length>`: exactly that many RDB bytes must follow. `$EOF:<mark>`: RDB bytes and that mark must follow, and
    /// nothing more before the first acknowledgement; only for a target that [takes marks](Self::takes_marks).
    #[must_use]
    pub fn payload_header(&mut self, framing: &Framing) -> Bytes {
        self.state = MasterState::Payload;
        framing.header()
    }

    /// May its payload end at a mark (`capa eof`)?
    #[must_use]
    pub fn takes_marks(&self) -> bool {
        self.has_capability("eof")
    }

    fn has_capability(&self, wanted: &str) -> bool {
        let mut names = self.capabilities.iter();
        names.any(|name| name.eq_ignore_ascii_case(wanted))
    }

    /// The last byte of the payload was sent. The feed follows.
    pub fn payload_done(&mut self) {
        self.state = MasterState::Feed;
    }

    /// A newline while the target waits for the payload. Empty at any other time: within the payload it would be data,
    /// and after it the target counts it as a byte of the feed.
    #[must_use]
    pub fn keepalive(&self) -> Bytes {
        match self.state {
            MasterState::Requested | MasterState::Preparing => Bytes::from_static(b"\n"),
            MasterState::Handshake | MasterState::Payload | MasterState::Feed => Bytes::new(),
        }
    }

    fn command(&mut self, args: &[Bytes]) {
        let Some((name, rest)) = args.split_first() else {
            return;
        };
        if name.eq_ignore_ascii_case(b"replconf") && is_ack(rest) {
            self.ack(rest);
            return;
        }
        if self.state != MasterState::Handshake {
            return; // as a master does: the other commands of a replica are not answered
        }
        if name.eq_ignore_ascii_case(b"auth") {
            self.auth(rest);
        } else if !self.authenticated {
            // Servers begin with PING, whatever they are going to say.
            if !name.eq_ignore_ascii_case(b"ping") {
                self.denial.get_or_insert(Denial::NoPassword);
            }
            self.reply("-NOAUTH Authentication required.");
        } else if name.eq_ignore_ascii_case(b"ping") || name.eq_ignore_ascii_case(b"replping") {
            if !self.refused_as_not_ready() {
                self.reply("+PONG");
            }
        } else if name.eq_ignore_ascii_case(b"replconf") {
            self.replconf(rest);
        } else if name.eq_ignore_ascii_case(b"psync") {
            self.psync(rest);
        } else if let (true, Some(info)) = (name.eq_ignore_ascii_case(b"info"), &self.info) {
            let bulk = format!("${}\r\n{info}\r\n", info.len());
            self.output.extend_from_slice(bulk.as_bytes());
        } else if name.eq_ignore_ascii_case(b"sync") {
            if !self.refused_as_not_ready() {
                self.requested(None, None, false);
            }
        } else {
            let shown = printable(name);
            self.reply(&format!(
                "-ERR unknown command '{shown}': backfeed serves only replicas"
            ));
        }
    }

    fn auth(&mut self, args: &[Bytes]) {
        let (user, password) = match args {
            [password] => (None, password),
            [user, password] => (Some(user), password),
            _ => return self.reply("-ERR wrong number of arguments for 'auth' command"),
        };
        // One try for each connection: with more, it could guess as fast as it sends.
        if self.denial == Some(Denial::WrongPassword) {
            return self.reply(WRONG_PASSWORD);
        }
        if let Some(wanted) = &self.credentials {
            let user_fits = match (&wanted.username, user) {
                (Some(wanted), Some(user)) => same(wanted.as_bytes(), user),
                (Some(wanted), None) => wanted == "default",
                (None, _) => true,
            };
            self.authenticated = same(wanted.password.as_bytes(), password) && user_fits;
        }
        if self.authenticated {
            self.denial = None;
            self.reply("+OK");
        } else {
            self.denial = Some(Denial::WrongPassword);
            self.reply(WRONG_PASSWORD);
        }
    }

    /// Option and value pairs from left to right. Those before an unknown one have taken effect (PROTOCOL.md A.4).
    fn replconf(&mut self, args: &[Bytes]) {
        let (pairs, rest) = args.as_chunks::<2>();
        if !rest.is_empty() || pairs.is_empty() {
            return self.reply("-ERR syntax error");
        }
        for [option, value] in pairs {
            if option.eq_ignore_ascii_case(b"capa") {
                if self.capabilities.len() < MAX_CAPABILITIES {
                    self.capabilities.push(printable(value));
                }
            } else if option.eq_ignore_ascii_case(b"listening-port") {
                self.listening_port = text(value).and_then(|port| port.parse().ok());
            } else if !option.eq_ignore_ascii_case(b"ip-address") {
                let shown = printable(option);
                return self.reply(&format!("-ERR Unrecognized REPLCONF option: {shown}"));
            }
        }
        self.reply("+OK");
    }

    fn psync(&mut self, args: &[Bytes]) {
        let [id, byte, ..] = args else {
            return self.reply("-ERR wrong number of arguments for 'psync' command");
        };
        let Some(byte) = text(byte).and_then(|byte| byte.parse::<i64>().ok()) else {
            return self.reply("-ERR value is not an integer or out of range");
        };
        if self.refused_as_not_ready() {
            return;
        }
        let id = text(id).and_then(|id| id.parse::<ReplId>().ok());
        let offset = u64::try_from(byte)
            .ok()
            .filter(|byte| *byte > 0)
            .map(Offset::before_byte);
        self.requested(id, offset, true);
    }

    fn requested(&mut self, id: Option<ReplId>, offset: Option<Offset>, psync: bool) {
        self.psync = psync;
        self.state = MasterState::Requested;
        self.events
            .push_back(MasterEvent::SyncRequested { id, offset, psync });
    }

    fn ack(&mut self, args: &[Bytes]) {
        let [option, value, ..] = args else { return };
        let offset = text(value).and_then(|value| value.parse::<u64>().ok());
        if let (Some(offset), true) = (offset, self.authenticated)
            && option.eq_ignore_ascii_case(b"ack")
        {
            self.events.push_back(MasterEvent::Ack(Offset(offset)));
        }
    }

    fn refused_as_not_ready(&mut self) -> bool {
        let Some(reason) = &self.not_ready else {
            return false;
        };
        let line = format!("-LOADING backfeed {}", printable(reason.as_bytes()));
        self.reply(&line);
        true
    }

    fn reply(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }
}

/// `REPLCONF ACK …` and `REPLCONF GETACK …` are never answered.
fn is_ack(args: &[Bytes]) -> bool {
    args.first().is_some_and(|option| {
        option.eq_ignore_ascii_case(b"ack") || option.eq_ignore_ascii_case(b"getack")
    })
}

fn text(bytes: &Bytes) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// What a target sent, in a form for one line of a reply or of a log.
fn printable(bytes: &[u8]) -> String {
    const MOST: usize = 200;
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .take(MOST)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Compares in a time that does not show how many of the first bytes were right.
fn same(wanted: &[u8], given: &[u8]) -> bool {
    let differing = wanted
        .iter()
        .zip(given)
        .fold(0u8, |all, (a, b)| all | (a ^ b));
    wanted.len() == given.len() && differing == 0
}

#[cfg(test)]
#[path = "master_tests.rs"]
mod tests;

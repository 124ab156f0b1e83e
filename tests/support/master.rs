//! A master that follows a script: it serves what a real server once said, and hangs up, stammers or falls silent where the
//! test wants it to.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::server::{Server, Version};

pub const MARK: &[u8; 40] = b"0123456789abcdef0123456789abcdef01234567";
pub const PASSWORD: &str = "open sesame";
/// So that a test which hangs fails.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A snapshot and the feed behind it, as a real server sent them.
#[derive(Debug, Clone)]
pub struct Recording {
    pub id: String,
    /// Where the snapshot stands.
    pub offset: u64,
    pub rdb: Vec<u8>,
    pub feed: Vec<u8>,
}

impl Recording {
    /// Data of all basic types in the snapshot; databases, a transaction, expiries, binary and a `GETACK` in the feed.
    pub fn of(version: Version) -> Self {
        let server = Server::builder(version)
            .arg("repl-diskless-sync", "no")
            .start();
        for command in [
            &["SET", "greeting", "hello"][..],
            &["RPUSH", "list", "a", "b", "c"],
            &["HSET", "hash", "field", "value"],
            &["SADD", "set", "1", "2", "3"],
            &["ZADD", "zset", "1.5", "one", "2", "two"],
            &["XADD", "stream", "1-1", "f", "v"],
            &["SET", "mortal", "soon", "PX", "86400000"],
        ] {
            server.cmd(command);
        }
        let mut replica = BufReader::new(TcpStream::connect(server.addr()).unwrap());
        replica
            .get_ref()
            .set_read_timeout(Some(READ_TIMEOUT))
            .unwrap();
        replica.get_mut().write_all(b"PSYNC ? -1\r\n").unwrap();
        let header = line(&mut replica);
        let words: Vec<&str> = header.split(' ').collect();
        assert_eq!(words[0], "+FULLRESYNC", "{header}");
        let length = line(&mut replica);
        let length = length.strip_prefix('$').expect("a length").parse().unwrap();
        let mut rdb = vec![0; length];
        replica.read_exact(&mut rdb).unwrap();
        write_some(&server);
        let (id, end) = server.position();
        let offset: u64 = words[2].parse().unwrap();
        let mut feed = vec![0; usize::try_from(end - offset).unwrap()];
        replica.read_exact(&mut feed).unwrap();
        assert_eq!(id, words[1]);
        let recording = Self {
            id,
            offset,
            rdb,
            feed,
        };
        let starts: Vec<u64> = recording.boundaries();
        assert!(
            starts.len() > 8 && starts.last() == Some(&end),
            "{starts:?}"
        );
        recording
    }

    /// The offset of the last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.feed.len() as u64
    }

    /// Every offset at which a replica may go on: between commands, outside `MULTI`. Found by a parser of our own.
    pub fn boundaries(&self) -> Vec<u64> {
        let mut found = vec![self.offset];
        let mut open = false;
        let mut reader = BufReader::new(&self.feed[..]);
        let mut at = 0;
        while at < self.feed.len() {
            if self.feed[at] == b'\n' {
                let mut newline = [0];
                reader.read_exact(&mut newline).unwrap();
                at += 1;
            } else {
                let (command, length) = command(&mut reader).expect("a command");
                at += length;
                let name = command[0].to_ascii_uppercase();
                open = (open || name == b"MULTI") && name != b"EXEC";
            }
            if !open {
                found.push(self.offset + at as u64);
            }
        }
        found
    }

    /// The same with a newline after each command: a keepalive, which counts as a byte of the feed.
    pub fn with_newlines(&self) -> Self {
        let mut feed = Vec::new();
        let mut before = self.offset;
        for boundary in self.boundaries().into_iter().skip(1) {
            let from = usize::try_from(before - self.offset).unwrap();
            let upto = usize::try_from(boundary - self.offset).unwrap();
            feed.extend_from_slice(&self.feed[from..upto]);
            feed.push(b'\n');
            before = boundary;
        }
        Self {
            feed,
            ..self.clone()
        }
    }
}

fn write_some(server: &Server) {
    let mut client = server.connect();
    let mut run = |args: &[&[u8]]| {
        let (name, args) = args.split_first().unwrap();
        let mut command = redis::cmd(std::str::from_utf8(name).unwrap());
        for arg in args {
            command.arg(*arg);
        }
        let _: redis::Value = command.query(&mut client).unwrap();
    };
    run(&[b"SET", b"greeting", b"good bye"]);
    run(&[b"SELECT", b"3"]);
    run(&[b"SET", b"binary\x00\r\n\xff", b"*1\r\n$4\r\nPING\r\n"]);
    run(&[b"MULTI"]);
    run(&[b"INCR", b"n"]);
    run(&[b"RPUSH", b"l", b"x", b"y"]);
    run(&[b"EXEC"]);
    run(&[b"SET", b"mortal", b"v", b"PX", b"86400000"]);
    run(&[b"SELECT", b"0"]);
    run(&[b"APPEND", b"long", &[b'v'; 200]]);
    // A GETACK, and nobody who answers it.
    run(&[b"WAIT", b"1", b"10"]);
    run(&[b"DEL", b"list"]);
}

fn line(reader: &mut impl BufRead) -> String {
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the end");
        if !line.trim().is_empty() {
            return line.trim().to_owned();
        }
    }
}

/// One command (an array of bulk strings) and its length; none at the end of the stream.
pub fn command(reader: &mut impl BufRead) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut length = 0;
    let mut header = |reader: &mut dyn BufRead, sign: char| {
        let mut line = String::new();
        length += reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        line.trim_end().strip_prefix(sign)?.parse::<usize>().ok()
    };
    let count = header(reader, '*')?;
    let mut args = Vec::new();
    let mut bodies = 0;
    for _ in 0..count {
        let mut arg = vec![0; header(reader, '$')? + 2];
        reader.read_exact(&mut arg).ok()?;
        bodies += arg.len();
        arg.truncate(arg.len() - 2);
        args.push(arg);
    }
    Some((args, length + bodies))
}

/// How a full sync is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length,
    Mark,
}

/// How the master behaves.
#[derive(Debug, Clone)]
pub struct Manner {
    pub framing: Framing,
    pub password: bool,
    /// Hang up after so many bytes: of the first ordinary connection, of the first link.
    pub cut_control: Option<usize>,
    pub cut_link: Option<usize>,
    /// Hang up after so many bytes of every other link too.
    pub cut_links: Option<usize>,
    /// Instead of hanging up there, say nothing more.
    pub fall_silent: bool,
    /// Newlines wherever a master may send them.
    pub keepalives: bool,
    /// Bytes written at once.
    pub piece: usize,
    /// Nothing of the feed before an acknowledgement has come.
    pub awaits_ack: bool,
    /// Answers `FULLRESYNC` to any request, so many times.
    pub full_syncs: usize,
    /// Behind the feed of the first link.
    pub noise: Option<&'static [u8]>,
    /// Behind the feed of every link that goes on.
    pub noise_after_continue: Option<&'static [u8]>,
    /// `INFO` says that all of the feed is in its backlog.
    pub backlog: bool,
    /// It is a replica itself: its full sync comes by one link, feed and all, and it may be behind what is stored.
    pub replica: bool,
    /// The answer to `PSYNC`, instead of a real one.
    pub psync_reply: Option<String>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            framing: Framing::Length,
            password: false,
            cut_control: None,
            cut_link: None,
            cut_links: None,
            fall_silent: false,
            keepalives: false,
            piece: 64 * 1024,
            awaits_ack: false,
            full_syncs: 0,
            noise: None,
            noise_after_continue: None,
            backlog: false,
            replica: true,
            psync_reply: None,
        }
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Links that were begun.
    pub links: usize,
    /// The arguments of each `PSYNC`.
    pub psyncs: Vec<(String, i64)>,
    pub full_syncs: usize,
    pub continues: usize,
    /// The highest acknowledgement.
    pub acked: u64,
    /// How many acknowledgements.
    pub acks: usize,
    /// The first cut has been made.
    pub was_cut: bool,
    /// What a real master would not have been asked, or told.
    pub wrong: Vec<String>,
    /// The last byte of the feed that was sent on any link.
    sent: u64,
}

struct Shared {
    recording: Recording,
    manner: Manner,
    cuts: Mutex<(Option<usize>, Option<usize>)>,
    noise: Mutex<Option<&'static [u8]>>,
    seen: Mutex<Seen>,
    closed: AtomicBool,
}

/// A scripted master; its threads end with their connections.
pub struct Master {
    port: u16,
    shared: Arc<Shared>,
}

impl Master {
    pub fn start(recording: &Recording, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            recording: recording.clone(),
            cuts: Mutex::new((manner.cut_control, manner.cut_link)),
            noise: Mutex::new(manner.noise),
            seen: Mutex::new(Seen {
                sent: if manner.backlog { recording.end() } else { 0 },
                ..Seen::default()
            }),
            manner,
            closed: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&accepting);
                if shared.closed.load(Ordering::Relaxed) {
                    return;
                }
                let stream = stream.unwrap();
                thread::spawn(move || Conversation::new(stream, shared).run());
            }
        });
        Self { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        let login = if self.shared.manner.password {
            format!(":{}@", PASSWORD.replace(' ', "%20"))
        } else {
            String::new()
        };
        format!("redis://{login}127.0.0.1:{}", self.port)
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared.seen()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts. Conversations end with their other sides.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The conversation is over.
struct Over;

struct Conversation {
    reader: BufReader<TcpStream>,
    shared: Arc<Shared>,
    /// Bytes left to be said; none: as many as there are.
    left: Option<usize>,
    is_link: bool,
}

impl Conversation {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        Self {
            reader: BufReader::new(stream),
            shared,
            left: None,
            is_link: false,
        }
    }

    fn run(mut self) {
        let _over = self.talk();
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }

    fn talk(&mut self) -> Result<(), Over> {
        let mut first = true;
        let mut logged_in = !self.shared.manner.password;
        loop {
            let args = self.command().ok_or(Over)?;
            let name = args[0].to_ascii_uppercase();
            let name = String::from_utf8_lossy(&name).into_owned();
            // Which of the two kinds of connection it is shows with the first command, or the one after the login.
            if first && name != "AUTH" {
                first = false;
                self.is_link = name == "REPLCONF" || name == "PSYNC";
                let mut cuts = self.shared.cuts.lock().unwrap();
                self.left = if self.is_link {
                    self.shared.seen().links += 1;
                    cuts.1.take().or(self.shared.manner.cut_links)
                } else {
                    cuts.0.take()
                };
            }
            match name.as_str() {
                "AUTH" if args.last().is_some_and(|p| p == PASSWORD.as_bytes()) => {
                    logged_in = true;
                    self.say(b"+OK\r\n")?;
                }
                "AUTH" => self.say(b"-WRONGPASS invalid username-password pair\r\n")?,
                _ if !logged_in => self.say(b"-NOAUTH Authentication required.\r\n")?,
                "INFO" => self.info()?,
                "REPLCONF" if args[1].eq_ignore_ascii_case(b"ack") => self.acknowledged(&args),
                "REPLCONF" => self.say(b"+OK\r\n")?,
                "PSYNC" => {
                    self.psync(&args)?;
                    return self.listen();
                }
                _ => self.say(b"-ERR unknown command\r\n")?,
            }
        }
    }

    fn info(&mut self) -> Result<(), Over> {
        let recording = &self.shared.recording;
        let manner = &self.shared.manner;
        let role = if manner.replica { "slave" } else { "master" };
        let size = "repl_backlog_size:1048576\r\n";
        let backlog = match (manner.backlog, manner.replica) {
            (true, _) => format!(
                "repl_backlog_active:1\r\n{size}repl_backlog_first_byte_offset:{}\r\n",
                recording.offset + 1
            ),
            (false, true) => size.to_owned(),
            // Nothing is known of it, so that the full sync of this master comes by one link.
            (false, false) => String::new(),
        };
        let info = format!(
            "# Server\r\nredis_version:7.0.15\r\nrole:{role}\r\nmaster_replid:{}\r\nmaster_repl_offset:{}\r\n\
             {backlog}",
            recording.id,
            recording.end()
        );
        self.say(format!("${}\r\n{info}\r\n", info.len()).as_bytes())
    }

    fn psync(&mut self, args: &[Vec<u8>]) -> Result<(), Over> {
        let shared = Arc::clone(&self.shared);
        let recording = &shared.recording;
        let id = String::from_utf8_lossy(&args[1]).into_owned();
        let next: i64 = String::from_utf8_lossy(&args[2]).parse().unwrap();
        let full = {
            let mut seen = shared.seen();
            seen.psyncs.push((id.clone(), next));
            seen.acked = 0;
            let at = u64::try_from(next - 1).ok();
            let valid = id == recording.id
                && at.is_some_and(|at| at <= seen.sent && recording.boundaries().contains(&at));
            if id != "?" && !valid {
                let sent = seen.sent;
                seen.wrong
                    .push(format!("PSYNC {id} {next}, when {sent} was sent"));
            }
            !valid || seen.full_syncs < shared.manner.full_syncs
        };
        if let Some(reply) = &shared.manner.psync_reply {
            return self.say(reply.as_bytes());
        }
        if full {
            self.full_sync()?;
        } else {
            shared.seen().continues += 1;
            self.keepalive()?;
            self.say(b"+CONTINUE\r\n")?;
        }
        let from = if full {
            recording.offset
        } else {
            u64::try_from(next - 1).unwrap()
        };
        if shared.manner.awaits_ack && full {
            let args = self.command().ok_or(Over)?;
            assert!(args[1].eq_ignore_ascii_case(b"ack"), "{args:?}");
            self.acknowledged(&args);
        }
        self.feed(from)?;
        match shared.manner.noise_after_continue {
            Some(noise) if !full => self.say(noise),
            _ => Ok(()),
        }
    }

    fn full_sync(&mut self) -> Result<(), Over> {
        let shared = Arc::clone(&self.shared);
        let recording = &shared.recording;
        shared.seen().full_syncs += 1;
        self.keepalive()?;
        let header = format!("+FULLRESYNC {} {}\r\n", recording.id, recording.offset);
        self.say(header.as_bytes())?;
        self.keepalive()?;
        match shared.manner.framing {
            Framing::Length => {
                self.say(format!("${}\r\n", recording.rdb.len()).as_bytes())?;
                self.say(&recording.rdb)
            }
            Framing::Mark => {
                self.say(&[&b"$EOF:"[..], MARK, b"\r\n"].concat())?;
                self.say(&recording.rdb)?;
                self.say(MARK)
            }
        }
    }

    fn feed(&mut self, from: u64) -> Result<(), Over> {
        let shared = Arc::clone(&self.shared);
        let recording = &shared.recording;
        let done = usize::try_from(from - recording.offset).unwrap();
        {
            // Noted before it is sent, as the answer may be quicker.
            let mut seen = shared.seen();
            let rest = recording.feed.len() - done;
            let sent = self.left.map_or(rest, |left| left.min(rest));
            seen.sent = seen.sent.max(from + sent as u64);
        }
        self.say(&recording.feed[done..])?;
        let noise = shared.noise.lock().unwrap().take();
        if let Some(noise) = noise {
            self.say(noise)?;
        }
        if self.left == Some(0) {
            return self.cut();
        }
        Ok(())
    }

    /// Takes acknowledgements until the other side hangs up.
    fn listen(&mut self) -> Result<(), Over> {
        loop {
            let args = self.command().ok_or(Over)?;
            if args.len() == 3 && args[1].eq_ignore_ascii_case(b"ack") {
                self.acknowledged(&args);
            } else {
                let what = format!("{args:?} in the feed");
                self.shared.seen().wrong.push(what);
            }
        }
    }

    fn acknowledged(&mut self, args: &[Vec<u8>]) {
        let offset: u64 = String::from_utf8_lossy(&args[2]).parse().unwrap();
        let mut seen = self.shared.seen();
        seen.acks += 1;
        if offset > seen.sent.max(self.shared.recording.offset)
            || (offset != 0 && offset < seen.acked)
        {
            let what = format!("ACK {offset} after {}, {} was sent", seen.acked, seen.sent);
            seen.wrong.push(what);
        }
        seen.acked = offset;
    }

    fn command(&mut self) -> Option<Vec<Vec<u8>>> {
        while self.reader.fill_buf().ok()?.first() == Some(&b'\n') {
            self.reader.consume(1);
        }
        command(&mut self.reader).map(|(args, _)| args)
    }

    fn keepalive(&mut self) -> Result<(), Over> {
        if self.shared.manner.keepalives {
            self.say(b"\n\n")?;
        }
        Ok(())
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let say = self.left.map_or(bytes.len(), |left| left.min(bytes.len()));
        for piece in bytes[..say].chunks(self.shared.manner.piece) {
            self.reader.get_mut().write_all(piece).map_err(|_| Over)?;
        }
        if let Some(left) = &mut self.left {
            *left -= say;
        }
        if say < bytes.len() {
            self.cut()
        } else {
            Ok(())
        }
    }

    fn cut(&mut self) -> Result<(), Over> {
        self.shared.seen().was_cut = true;
        if self.shared.manner.fall_silent {
            // Reads on, as a half-open link takes what is written to it.
            let mut sink = [0; 1024];
            while self.reader.read(&mut sink).is_ok_and(|read| read > 0) {}
        }
        Err(Over)
    }
}

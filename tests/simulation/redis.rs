//! A model of a Redis server: replication as a replica sees it, over a plain data set.

use tokio::time::Instant;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::model::{Model, Text, text};
use super::net::{Connection, Wire};
use super::{Sim, note, replica, with};
use crate::runtime::simulated::{below, between, id, once_in};
use crate::wire::position::ReplId;
use crate::wire::resp::encode_command;

/// A server.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) up: bool,
    pub(crate) replid: ReplId,
    /// What really happens to it: another line than its id's after it was set back to a snapshot of its memory.
    pub(crate) line: ReplId,
    /// It was set back, or goes on from one that was.
    pub(crate) was_set_back: bool,
    /// A sidecar has restored it from a history.
    pub(crate) is_restored: bool,
    /// Of the program: another one after each start.
    pub(crate) run: String,
    /// The id before, and the last byte of it.
    pub(crate) replid2: Option<(ReplId, u64)>,
    pub(crate) offset: u64,
    /// Number of the first byte in the backlog.
    pub(crate) backlog_first: u64,
    backlog_size: u64,
    /// What `SELECT` said last in the feed.
    selected: Option<u32>,
    pub(crate) model: Model,
    /// 6 sends relative expiries.
    pub(crate) version: u32,
    diskless: bool,
    pub(crate) shutting_down: bool,
    /// Of replicas, to be told of more feed.
    links: Vec<Arc<Notify>>,
    /// What it acknowledged when it was last asked for its facts: see the checks of full syncs.
    pub(crate) full_syncs: u64,
    /// Loads what it has on its disk.
    pub(crate) loading: bool,
    /// Keys that it had when it started, or that its master gave it.
    pub(crate) loaded: usize,
    started: Instant,
    /// The pod that it is in, with a sidecar as its neighbour.
    pub(crate) pod: Option<String>,
    /// It is a replica of that sidecar. Each `REPLICAOF` has a number.
    pub(crate) follows: Option<u64>,
    /// Its link to that, while it is up.
    pub(crate) master_link: Option<Connection>,
    /// It can ask to go on from where it is.
    pub(crate) cached: bool,
    /// A sidecar has given it all that it has.
    pub(crate) given: bool,
    /// How many objects there were in the store when it was last given something.
    pub(crate) fed: u64,
    /// What it does to data for which it has no room.
    pub(crate) loses: Option<Loss>,
    pub(crate) lost: Option<(u32, Text)>,
    pub(crate) refused: u64,
    pub(crate) evicted: u64,
}

/// What becomes of data that a server has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Keys go, and are counted.
    Evicts,
    /// Commands are refused, and counted.
    Refuses,
    /// Keys are not there, and nobody says why.
    Forgets,
}

pub(crate) fn new_id() -> ReplId {
    ReplId::from_random(id())
}

impl Node {
    /// One with a history of its own.
    pub(crate) fn fresh(version: u32, backlog_size: u64) -> Self {
        let replid = new_id();
        Self {
            up: true,
            replid,
            line: replid,
            was_set_back: false,
            is_restored: false,
            run: format!("run of {replid}"),
            replid2: None,
            offset: 0,
            backlog_first: 1,
            backlog_size,
            selected: None,
            model: Model::default(),
            version,
            diskless: once_in(2),
            shutting_down: false,
            links: Vec::new(),
            full_syncs: 0,
            loading: false,
            loaded: 0,
            started: Instant::now(),
            pod: None,
            follows: None,
            master_link: None,
            cached: false,
            given: false,
            fed: 0,
            loses: None,
            lost: None,
            refused: 0,
            evicted: 0,
        }
    }

    /// One that goes on from `old` at `offset` under a new id. With `backlog` it has what its replicas may lack.
    pub(crate) fn promoted(old: &Self, offset: u64, model: Model, backlog: bool) -> Self {
        let first = old.backlog_first.min(offset + 1);
        Self {
            was_set_back: old.was_set_back,
            replid2: Some((old.replid, offset)),
            offset,
            backlog_first: if backlog { first } else { offset + 1 },
            loaded: model.keys(),
            model,
            links: Vec::new(),
            ..Self::fresh(old.version, old.backlog_size)
        }
    }

    /// The machine goes on from this snapshot of its memory, as if nothing had been since.
    pub(crate) fn set_back(self) -> Self {
        Self {
            line: new_id(),
            was_set_back: true,
            up: true,
            // It has what any replica may ask for.
            backlog_first: 1,
            backlog_size: 1 << 20,
            links: Vec::new(),
            master_link: None,
            ..self
        }
    }

    pub(crate) fn is_master(&self) -> bool {
        self.follows.is_none()
    }

    /// It has received all this from its master.
    pub(crate) fn received(&mut self, count: u64) {
        self.offset += count;
        let oldest = self.offset.saturating_sub(self.backlog_size) + 1;
        self.backlog_first = self.backlog_first.max(oldest);
    }

    /// From here on it goes its own way.
    pub(crate) fn select_anew(&mut self) {
        self.selected = None;
    }

    /// Would `PSYNC` of the byte after `offset` be continued?
    pub(crate) fn continues(&self, id: ReplId, offset: u64) -> bool {
        let known = (id == self.replid && offset <= self.offset)
            || matches!(self.replid2, Some((old, shared)) if id == old && offset <= shared);
        known && offset + 1 >= self.backlog_first
    }

    fn info(&self, now_ms: i64) -> String {
        let (id2, second) = match self.replid2 {
            Some((id, shared)) => (id.to_string(), (shared + 1).to_string()),
            None => ("0".repeat(40), "-1".to_owned()),
        };
        let shutdown = if self.shutting_down {
            "shutdown_in_milliseconds:5000\r\n"
        } else {
            ""
        };
        let role = match &self.follows {
            None => "role:master\r\n".to_owned(),
            Some(_) => format!(
                "role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:{}\r\nmaster_link_status:{}\r\n",
                replica::PORT,
                if self.master_link.is_some() {
                    "up"
                } else {
                    "down"
                }
            ),
        };
        // Enough for what it takes. What it loses, it loses on the way.
        let (limit, policy) = match self.loses {
            None | Some(Loss::Forgets) => (0, "noeviction"),
            Some(Loss::Refuses) => (2000, "noeviction"),
            Some(Loss::Evicts) => (2000, "allkeys-lru"),
        };
        let loaded = match self.version {
            6 => String::new(),
            _ => format!(
                "rdb_last_load_keys_loaded:{}\r\nuptime_in_seconds:{}\r\n",
                self.loaded,
                self.started.elapsed().as_secs()
            ),
        };
        let mut info = format!(
            "# Server\r\nredis_version:{}\r\nrun_id:{}\r\nserver_time_usec:{}\r\n{shutdown}\
             # Memory\r\nused_memory:1000\r\nmaxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n\
             # Persistence\r\nloading:{}\r\nrdb_last_bgsave_status:ok\r\naof_enabled:0\r\n{loaded}\
             # Stats\r\nevicted_keys:{}\r\nunexpected_error_replies:{}\r\n\
             # Replication\r\n{role}\
             master_replid:{}\r\nmaster_replid2:{id2}\r\nmaster_repl_offset:{}\r\nsecond_repl_offset:{second}\r\n\
             repl_backlog_active:1\r\nrepl_backlog_size:{}\r\nrepl_backlog_first_byte_offset:{}\r\n\
             # Keyspace\r\n",
            if self.version == 6 { "6.2.14" } else { "7.2.4" },
            self.run,
            now_ms * 1000,
            u8::from(self.loading),
            self.evicted,
            self.refused,
            self.replid,
            self.offset,
            self.backlog_size,
            self.backlog_first,
        );
        for (db, keys) in &self.model.dbs {
            let expires = keys.values().filter(|key| key.expiry.is_some()).count();
            let keys = keys.len();
            info += &format!("db{db}:keys={keys},expires={expires},avg_ttl=0\r\n");
        }
        info
    }

    fn snapshot(&self) -> Vec<u8> {
        let aux = [
            ("redis-ver", "7.2.4".to_owned()),
            ("repl-stream-db", "0".to_owned()),
            ("repl-id", self.replid.to_string()),
            ("repl-offset", self.offset.to_string()),
        ];
        let version = if self.version == 6 { 9 } else { 11 };
        self.model.rdb(version, &aux)
    }
}

impl Sim {
    /// A unit of commands in database `db`, executed and sent to all replicas.
    pub(crate) fn write(&mut self, node: usize, db: u32, unit: &[Vec<Text>]) {
        if self.nodes[node].selected != Some(db) {
            let select = vec![text("SELECT"), text(db.to_string())];
            self.nodes[node].selected = Some(db);
            self.write_unit(node, db, &[select]);
        }
        self.write_unit(node, db, unit);
    }

    /// What belongs to no database.
    pub(crate) fn write_bare(&mut self, node: usize, command: &[&str]) {
        let command = command.iter().map(text).collect();
        self.write_unit(node, 0, &[command]);
    }

    fn write_unit(&mut self, node: usize, db: u32, unit: &[Vec<Text>]) {
        let now = self.now_ms();
        let node = &mut self.nodes[node];
        let mut db = db;
        let mut bytes = Vec::new();
        for command in unit {
            node.model.execute(&mut db, command, now);
            let args: Vec<&[u8]> = command.iter().map(|arg| &arg[..]).collect();
            encode_command(&args, &mut bytes);
        }
        self.truth.write(node.line, &bytes, Some(&node.model), now);
        node.offset += bytes.len() as u64;
        let oldest = node.offset.saturating_sub(node.backlog_size) + 1;
        node.backlog_first = node.backlog_first.max(oldest);
        for link in &node.links {
            link.notify_one();
        }
    }

    /// Bytes of the feed from `at` on, in small pieces.
    fn feed(&mut self, node: usize, id: ReplId, at: u64) -> Option<Vec<u8>> {
        let node = &self.nodes[node];
        if !node.up || node.replid != id || at >= node.offset {
            return None;
        }
        // Often in pieces so small that commands are cut.
        let most = if once_in(3) { 40 } else { 20_000 };
        let end = (at + between(1, most)).min(node.offset);
        Some(self.truth.bytes(node.line, at, end).unwrap())
    }

    /// The server is gone, and all connections with it.
    pub(crate) fn stop_node(&mut self, node: usize) {
        self.nodes[node].up = false;
        for connection in &self.connections {
            if connection.node == node {
                connection.cut(once_in(2));
            }
        }
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve(node: usize, process: String, wire: Wire) {
    let (mut reader, writer) = split(wire);
    let mut writer = Some(writer);
    let mut inbox = BytesMut::new();
    let more = Arc::new(Notify::new());
    let acknowledged = Arc::new(Notify::new());
    let mut link = None;
    let mut rdb_only = false;
    while let Ok(Some(command)) = read_command(&mut reader, &mut inbox).await {
        let word = |at: usize| {
            let word: &[u8] = command.get(at).map_or(b"", |word| &word[..]);
            String::from_utf8_lossy(word).to_ascii_uppercase()
        };
        match (word(0).as_str(), word(1).as_str()) {
            ("REPLCONF", "ACK") => {
                let offset = word(2).parse().unwrap();
                if let Some(id) = link {
                    with(|sim| sim.acknowledged(node, &process, id, offset));
                }
                acknowledged.notify_one();
            }
            ("REPLCONF", "RDB-ONLY") => {
                rdb_only = true;
                let Some(writer) = &mut writer else {
                    return;
                };
                if writer.write_all(b"+OK\r\n").await.is_err() {
                    return;
                }
            }
            ("PSYNC", _) => {
                let Some(writer) = writer.take() else {
                    return;
                };
                let resume = word(1).parse().ok().zip(word(2).parse::<u64>().ok());
                let mut answer = with(|sim| sim.psync(node, &process, resume, &more));
                answer.rdb_only = rdb_only;
                link = Some(answer.id);
                let acknowledged = acknowledged.clone();
                tokio::spawn(send(node, writer, answer, more.clone(), acknowledged));
            }
            (name, _) => {
                let Some(writer) = &mut writer else {
                    return;
                };
                let answer = match name {
                    "INFO" => {
                        let info = with(|sim| sim.asked_for_facts(node, &process));
                        format!("${}\r\n{info}\r\n", info.len())
                    }
                    _ if with(|sim| sim.nodes[node].loading) => {
                        "-LOADING Redis is loading the dataset in memory\r\n".to_owned()
                    }
                    "PING" => "+PONG\r\n".to_owned(),
                    "REPLICAOF" => {
                        replica::replicaof(node, &process, &word(1));
                        "+OK\r\n".to_owned()
                    }
                    _ => "+OK\r\n".to_owned(),
                };
                if writer.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What a replica is sent.
struct Answer {
    id: ReplId,
    line: String,
    /// Of a full sync.
    payload: Option<Vec<u8>>,
    diskless: bool,
    /// No feed follows the snapshot, and the server counts nobody for it.
    rdb_only: bool,
    /// The feed goes on after this byte. None: it does not.
    after: Option<u64>,
}

impl Sim {
    fn psync(
        &mut self,
        at: usize,
        process: &str,
        resume: Option<(ReplId, u64)>,
        more: &Arc<Notify>,
    ) -> Answer {
        let id = self.nodes[at].replid;
        if !self.nodes[at].up
            || !self.nodes[at].is_master()
            || self.nodes[at].loading
            || once_in(40)
        {
            return Answer {
                id,
                line: "-NOMASTERLINK Can't SYNC while not connected with my master\r\n".to_owned(),
                payload: None,
                diskless: false,
                rdb_only: false,
                after: None,
            };
        }
        self.nodes[at].links.push(more.clone());
        let wanted = resume.map(|(id, first)| (id, first.saturating_sub(1)));
        if let Some((from, offset)) = wanted
            && self.nodes[at].continues(from, offset)
        {
            note(|| format!("{process} continues {from} after {offset} as {id}"));
            self.continued();
            return Answer {
                id,
                line: format!("+CONTINUE {id}\r\n"),
                payload: None,
                diskless: false,
                rdb_only: false,
                after: Some(offset),
            };
        }
        let offset = self.nodes[at].offset;
        note(|| format!("{process} gets a full sync of {id} at {offset}, and wanted {wanted:?}"));
        self.full_sync(at, process, wanted);
        let node = &mut self.nodes[at];
        self.oracle.synced.insert(process.to_owned(), node.line);
        node.full_syncs += 1;
        node.selected = None;
        Answer {
            id,
            line: format!("+FULLRESYNC {id} {offset}\r\n"),
            payload: Some(node.snapshot()),
            diskless: node.diskless,
            rdb_only: false,
            after: Some(offset),
        }
    }

    fn asked_for_facts(&mut self, node: usize, process: &str) -> String {
        self.facts_asked(node, process);
        self.nodes[node].info(self.now_ms())
    }
}

async fn send(
    node: usize,
    mut to: WriteHalf<Wire>,
    answer: Answer,
    more: Arc<Notify>,
    acknowledged: Arc<Notify>,
) {
    if to.write_all(answer.line.as_bytes()).await.is_err() {
        return;
    }
    if let Some(payload) = answer.payload {
        // The child process forks and writes.
        sleep(Duration::from_millis(below(200))).await;
        let mark: String = (0..40)
            .map(|_| char::from(b'a' + below(26) as u8))
            .collect();
        let (before, after) = if answer.diskless {
            (format!("$EOF:{mark}\r\n"), mark)
        } else {
            (format!("${}\r\n", payload.len()), String::new())
        };
        let newlines = "\n".repeat(below(3) as usize);
        let all = [
            newlines.as_bytes(),
            before.as_bytes(),
            &payload,
            after.as_bytes(),
        ]
        .concat();
        let mut rest = &all[..];
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(between(1, 3000) as usize));
            if to.write_all(piece).await.is_err() {
                return;
            }
            rest = more;
        }
        if answer.rdb_only {
            return;
        }
        with(|sim| sim.snapshot_counts(node, answer.after));
        if answer.diskless {
            acknowledged.notified().await;
        }
    }
    let Some(mut at) = answer.after else {
        return;
    };
    loop {
        match with(|sim| sim.feed(node, answer.id, at)) {
            Some(bytes) => {
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
                at += bytes.len() as u64;
            }
            None => more.notified().await,
        }
    }
}

pub(crate) async fn read_command(
    from: &mut ReadHalf<Wire>,
    inbox: &mut BytesMut,
) -> std::io::Result<Option<Vec<Text>>> {
    loop {
        while inbox.first() == Some(&b'\n') {
            let _ = inbox.split_to(1);
        }
        if let Some((command, length)) = parse(inbox) {
            let _ = inbox.split_to(length);
            return Ok(Some(command));
        }
        if from.read_buf(inbox).await? == 0 {
            return Ok(None);
        }
    }
}

/// A command at the front of `bytes`, and its length; none: it is not whole.
pub(crate) fn parse(bytes: &[u8]) -> Option<(Vec<Text>, usize)> {
    let mut at = 0;
    let line = |at: &mut usize, sign: u8| -> Option<usize> {
        let rest = bytes.get(*at..)?;
        let length = rest.windows(2).position(|two| two == b"\r\n")?;
        assert_eq!(rest[0], sign, "no command");
        *at += length + 2;
        Some(
            std::str::from_utf8(&rest[1..length])
                .unwrap()
                .parse()
                .unwrap(),
        )
    };
    let count = line(&mut at, b'*')?;
    let mut command = Vec::new();
    for _ in 0..count {
        let length = line(&mut at, b'$')?;
        command.push(text(bytes.get(at..at + length)?));
        at += length + 2;
    }
    (at <= bytes.len()).then_some((command, at))
}

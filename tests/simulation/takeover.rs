//! A sidecar's restore: the history is sealed, a fresh server is its replica until it has everything, and is promoted then.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::model::Model;
use super::net::{Wire, pair};
use super::redis::{Node, parse};
use super::store::store;
use super::{fail, note, with};
use crate::archive::takeover::{ClaimDoc, Claimant};
use crate::archive::{Archive, FORMAT, HistoryDoc, Parent};
use crate::capture::Clock;
use crate::config::ServeLog;
use crate::monitoring::status::Status;
use crate::restore::{Identity, Server, handshake};
use crate::runtime;
use crate::runtime::simulated::{Process, between, once_in, within};
use crate::sidecar::takeover::{Wanted, prepare};
use crate::wire::position::ReplId;
use crate::wire::psync::transfer::{Framing, MARK_LEN};
use crate::wire::resp::encode_command;

/// Where a restored server stands.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    id: ReplId,
    offset: u64,
    model: Model,
}

/// What has come of a takeover so far.
#[derive(Default)]
struct Reached {
    /// What the fresh server has received.
    received: Option<Received>,
    /// The server that was promoted.
    promoted: Option<usize>,
}

type Shared = Arc<Mutex<Reached>>;

/// `repl-timeout`.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A takeover under way.
pub(crate) struct Takeover {
    pub(super) process: Arc<Process>,
    task: JoinHandle<Result<(), String>>,
    reached: Shared,
}

impl Takeover {
    /// Of the history that server `old` is in.
    pub(crate) fn begin(number: u64, old: usize, clock: Clock) -> Self {
        let process = Process::new(&format!("s.{number}"));
        note(|| format!("{} takes over", process.name));
        let weather = with(|sim| sim.weather);
        let (ours, theirs, connection) = pair(usize::MAX, weather);
        with(|sim| sim.connections.push(connection));
        let reached = Shared::default();
        let of_server = Arc::clone(&reached);
        tokio::spawn(async move {
            if let Err(error) = replicate(theirs, of_server).await {
                note(|| format!("the fresh server: {error}"));
            }
        });
        let claimant = Claimant {
            writer: process.name.clone(),
            redis: Some(format!("run {number}")),
            now_unix_ms: clock(),
        };
        let form = form_of(number);
        let serving = serve(ours, claimant, form, old, Arc::clone(&reached));
        let task = within(&process, || runtime::spawn(serving));
        Self {
            process,
            task,
            reached,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.process.is_dead() || self.task.is_finished()
    }

    pub(crate) fn die_in(&self, steps: u64) {
        self.process.die_in(steps);
    }

    pub(crate) fn spare(&self) {
        self.process.spare();
    }

    /// The server that was promoted, if one was.
    pub(crate) async fn end(self) -> Result<Option<usize>, String> {
        if !self.process.is_dead() {
            let done = self.task.await.map_err(|error| error.to_string())?;
            if let Err(error) = done {
                note(|| format!("{}: no takeover: {error}", self.process.name));
            }
        }
        Ok(self.reached.lock().unwrap().promoted)
    }
}

/// What a round of a sidecar does with a fresh Redis, to its promotion.
async fn serve(
    wire: Wire,
    claimant: Claimant,
    form: ServeLog,
    old: usize,
    reached: Shared,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let archive = Archive::open(store()).await.map_err(|error| text(&error))?;
    let catalog = archive.catalog().await.map_err(|error| text(&error))?;
    let latest = catalog.latest(Some("redis:6379"));
    let history = latest
        .map_err(|error| text(&error))?
        .ok_or("nothing is stored")?;
    if Some(history) != with(|sim| sim.key_of(&sim.nodes[old])) {
        return Err("another one goes on already".to_owned());
    }
    let wanted = Wanted {
        form,
        memory_limit: 1 << 28,
        target: Server::named("redis", "7.2.4"),
        failed: None,
    };
    let writer = claimant.writer.clone();
    let run = claimant.redis.clone().unwrap_or_default();
    let waiting = handshake(wire, None).await.map_err(|error| text(&error))?;
    let wait = |claim: &ClaimDoc| {
        with(|sim| sim.oracle.counts.waits += 1);
        note(|| format!("{writer} waits for {}", claim.writer));
    };
    let status = Status::new();
    let prepared = prepare(&archive, history, claimant.clone(), wanted, &status, wait).await;
    let mut ready = prepared.map_err(|error| text(&error))?;
    if matches!(ready.identity, Identity::Fork { .. }) {
        return Err("a fork".to_owned());
    }
    let takes_marks = waiting.takes_marks();
    let offered = async { Ok(ready.offer(takes_marks).await?.0) };
    let served = waiting.serve(offered, &()).await;
    let caught_up = served.map_err(|error| text(&error))?;
    note(|| format!("everything is served, up to {}", caught_up.end()));
    let confirmed = ready.lease.confirm().await;
    confirmed.map_err(|error| text(&error))?;
    if once_in(3) {
        // It falls asleep where it hurts most, and its claims stand still.
        ready.lease.stop_renewing();
        sleep(Duration::from_millis(between(1, 90_000))).await;
    }
    let node = promote(old, run, &reached)?;
    if once_in(2) {
        let (id, server) = with(|sim| (sim.nodes[node].replid, sim.oracle.server(history)));
        let doc = HistoryDoc {
            format: FORMAT,
            id,
            replid: None,
            parent: Some(Parent {
                history,
                offset: ready.plan.end.offset,
                db: ready.plan.end.db,
            }),
            previous: None,
            also_previous: Vec::new(),
            service: "redis:6379".to_owned(),
            server: server.ok_or("no document")?,
            run_id: None,
            created_unix_ms: claimant.now_unix_ms,
        };
        let begun = archive.begin_history(&doc, None, &writer).await;
        begun.map_err(|error| text(&error))?;
    }
    Ok(())
}

/// In which form a server is to get the log, by the number of the process. Nothing is drawn for it, so that all else stays as it
/// would be.
pub(crate) fn form_of(number: u64) -> ServeLog {
    match number % 3 {
        0 => ServeLog::Auto,
        1 => ServeLog::Replay,
        _ => ServeLog::Rebuild,
    }
}

/// The fresh server becomes a master.
fn promote(old: usize, run: String, reached: &Shared) -> Result<usize, String> {
    let mut reached = reached.lock().unwrap();
    let Received { id, offset, model } =
        reached.received.take().ok_or("it has received nothing")?;
    with(|sim| {
        let line = sim.oracle.line(id);
        let wanted = sim
            .truth
            .state(line, offset)
            .ok_or("it was given no boundary")?;
        if let Some(wrong) = wanted.difference(&model, sim.late_ms()) {
            fail(format!("the restored server: {wrong}"));
        }
        let acknowledged = sim.oracle.acknowledged.get(&id).copied();
        if acknowledged > Some(offset) || sim.oracle.sealed(id).is_none() {
            fail(format!(
                "{acknowledged:?} of {id} was acknowledged, and {offset} restored"
            ));
        }
        let mut node = Node::promoted(&sim.nodes[old], offset, model.clone(), false);
        node.replid2 = Some((id, offset));
        note(|| format!("{id} is restored as {} from {offset}", node.replid));
        node.is_restored = true;
        node.run = run;
        sim.truth.begin(node.replid, Some(line), offset, model);
        sim.nodes.push(node);
        let at = sim.nodes.len() - 1;
        reached.promoted = Some(at);
        Ok(at)
    })
}

/// What a server does whose master is the program.
async fn replicate(wire: Wire, reached: Shared) -> Result<(), String> {
    let (mut reader, mut writer) = split(wire);
    let mut inbox = BytesMut::new();
    for command in [
        "PING",
        "REPLCONF listening-port 6379",
        "REPLCONF capa eof capa psync2",
        "PSYNC ? -1",
    ] {
        let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let mut bytes = Vec::new();
        encode_command(&args, &mut bytes);
        writer
            .write_all(&bytes)
            .await
            .map_err(|error| error.to_string())?;
        if !command.starts_with("PSYNC") {
            line(&mut reader, &mut inbox).await?;
        }
    }
    let answer = line(&mut reader, &mut inbox).await?;
    let words: Vec<&str> = answer.split(' ').collect();
    let ["+FULLRESYNC", id, offset] = words[..] else {
        return Err(format!("answered {answer}"));
    };
    let id: ReplId = id.parse().map_err(|_| "no id")?;
    let mut offset: u64 = offset.parse().map_err(|_| "no offset")?;
    let header = line(&mut reader, &mut inbox).await?;
    let rdb = snapshot(&mut reader, &mut inbox, &header, TIMEOUT).await?;
    let (mut model, mut db) = Model::read_by_replica(&rdb)?;
    let mut next = Instant::now();
    loop {
        while let Some((argv, length)) = parse(&inbox) {
            let now = with(|sim| sim.now_ms());
            model.execute(&mut db, &argv, now);
            let _ = inbox.split_to(length);
            offset += length as u64;
        }
        let received = Received {
            id,
            offset,
            model: model.clone(),
        };
        reached.lock().unwrap().received = Some(received);
        if Instant::now() >= next {
            let mut ack = Vec::new();
            let at = offset.to_string();
            encode_command(&[b"REPLCONF", b"ACK", at.as_bytes()], &mut ack);
            writer
                .write_all(&ack)
                .await
                .map_err(|error| error.to_string())?;
            next = Instant::now() + Duration::from_millis(between(500, 1500));
        }
        if let Ok(read) = timeout_at(next, more(&mut reader, &mut inbox)).await {
            read?;
        }
    }
}

pub(crate) type Reader = tokio::io::ReadHalf<Wire>;

pub(crate) async fn more(reader: &mut Reader, inbox: &mut BytesMut) -> Result<(), String> {
    match reader.read_buf(inbox).await {
        Ok(0) => Err("the link ended".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The snapshot that a header announces. What comes behind a mark before it was acknowledged, a server would lose.
pub(crate) async fn snapshot(
    reader: &mut Reader,
    inbox: &mut BytesMut,
    header: &str,
    patience: Duration,
) -> Result<BytesMut, String> {
    let framing = Framing::parse(&header.as_bytes()[1..]).ok_or("no length")?;
    loop {
        let whole = match framing {
            Framing::Length(length) => {
                let length = usize::try_from(length).unwrap();
                (inbox.len() >= length).then(|| inbox.split_to(length))
            }
            Framing::Mark(mark) => match memchr::memmem::find(inbox, &mark) {
                Some(at) if at + MARK_LEN < inbox.len() => {
                    fail("something was sent behind the mark of a snapshot".to_owned());
                    return Err("it would be lost".to_owned());
                }
                Some(at) => {
                    let rdb = inbox.split_to(at);
                    inbox.clear();
                    Some(rdb)
                }
                None => None,
            },
        };
        if let Some(rdb) = whole {
            let is_marked = matches!(framing, Framing::Mark(_));
            with(|sim| match is_marked {
                true => sim.oracle.counts.rebuilt += 1,
                false => sim.oracle.counts.replayed += 1,
            });
            return Ok(rdb);
        }
        let arrived = timeout_at(Instant::now() + patience, more(reader, inbox)).await;
        arrived.map_err(|_| "it is silent".to_owned())??;
    }
}

pub(crate) async fn line(reader: &mut Reader, inbox: &mut BytesMut) -> Result<String, String> {
    loop {
        while inbox.first() == Some(&b'\n') {
            let _ = inbox.split_to(1);
        }
        if let Some(end) = inbox.windows(2).position(|two| two == b"\r\n") {
            let line = inbox.split_to(end + 2);
            return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        more(reader, inbox).await?;
    }
}

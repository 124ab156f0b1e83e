//! A sidecar's restore: the history is sealed, a fresh server is its replica until it has everything, and is promoted then.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::model::Model;
use super::net::{Wire, pair};
use super::redis::{Node, parse};
use super::store::store;
use super::{note, with};
use crate::archive::Archive;
use crate::capture::Clock;
use crate::position::ReplId;
use crate::resp::encode_command;
use crate::restore::{Identity, greet, offer};
use crate::sidecar;
use crate::world;
use crate::world::simulated::{Process, between, once_in, within};

/// Where a restored server stands.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    id: ReplId,
    offset: u64,
    model: Model,
}

/// A takeover under way.
pub(crate) struct Takeover {
    process: Arc<Process>,
    task: JoinHandle<Result<(), String>>,
}

impl Takeover {
    pub(crate) fn begin(number: u64, clock: Clock) -> Self {
        let process = Process::new(&format!("s.{number}"));
        note(|| format!("{} takes over", process.name));
        let weather = with(|sim| {
            sim.received = None;
            sim.weather
        });
        let (ours, theirs, connection) = pair(usize::MAX, weather);
        with(|sim| sim.connections.push(connection));
        tokio::spawn(async move {
            if let Err(error) = replicate(theirs).await {
                note(|| format!("the fresh server: {error}"));
            }
        });
        let writer = process.name.clone();
        let task = within(&process, || world::spawn(serve(ours, writer, clock)));
        Self { process, task }
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

    /// What the fresh server has, if it has everything.
    pub(crate) async fn end(self) -> Result<Option<Received>, String> {
        if self.process.is_dead() {
            return Ok(None);
        }
        let done = self.task.await.map_err(|error| error.to_string())?;
        if let Err(error) = done {
            note(|| format!("no takeover: {error}"));
            return Ok(None);
        }
        Ok(with(|sim| sim.received.take()))
    }
}

async fn serve(wire: Wire, writer: String, clock: Clock) -> Result<(), String> {
    let archive = Archive::open(store())
        .await
        .map_err(|error| error.to_string())?;
    let catalog = archive.catalog().await.map_err(|error| error.to_string())?;
    let latest = catalog.latest(Some("redis:6379"));
    let history = latest
        .map_err(|error| error.to_string())?
        .ok_or("nothing is stored")?;
    let memory = 1 << 28;
    let guest = greet(wire, None).await.map_err(|error| error.to_string())?;
    let prepared = sidecar::prepare(&archive, history, &writer, clock(), memory).await;
    let (plan, identity) = prepared.map_err(|error| error.to_string())?;
    if matches!(identity, Identity::Fork { .. }) {
        return Err("a fork".to_owned());
    }
    let served = guest.serve(offer(&archive, &plan, identity), &()).await;
    let caught_up = served.map_err(|error| error.to_string())?;
    note(|| format!("everything is served, up to {}", caught_up.end()));
    Ok(())
}

/// The fresh server becomes a master.
pub(crate) fn promote(old: usize, received: Received) -> Result<usize, String> {
    let Received { id, offset, model } = received;
    with(|sim| {
        let line = sim.oracle.line(id);
        let wanted = sim
            .truth
            .state(line, offset)
            .ok_or("it was given no boundary")?;
        if let Some(wrong) = wanted.difference(&model, sim.late_ms()) {
            return Err(format!("the restored server: {wrong}"));
        }
        let acknowledged = sim.oracle.acknowledged.get(&id).copied();
        if acknowledged > Some(offset) || sim.oracle.sealed(id).is_none() {
            return Err(format!(
                "{acknowledged:?} of {id} was acknowledged, and {offset} restored"
            ));
        }
        let mut node = Node::promoted(&sim.nodes[old], offset, model.clone(), false);
        node.replid2 = Some((id, offset));
        note(|| format!("{id} goes on as {} from {offset}", node.replid));
        sim.truth.begin(node.replid, Some(line), offset, model);
        sim.nodes.push(node);
        sim.oracle.counts.takeovers += 1;
        sim.oracle.seals_of_takeovers = 0;
        // The old one may live on, or be gone.
        if once_in(2) {
            sim.stop_node(old);
            sim.nodes[old].up = once_in(2);
        }
        Ok(sim.nodes.len() - 1)
    })
}

/// What a server does whose master is the program.
async fn replicate(wire: Wire) -> Result<(), String> {
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
    let length: usize = header[1..].parse().map_err(|_| "no length")?;
    while inbox.len() < length {
        more(&mut reader, &mut inbox).await?;
    }
    let (mut model, mut db) = Model::read_by_replica(&inbox.split_to(length))?;
    let mut next = Instant::now();
    loop {
        while let Some((argv, length)) = parse(&inbox) {
            let now = with(|sim| sim.now_ms());
            model.execute(&mut db, &argv, now);
            let _ = inbox.split_to(length);
            offset += length as u64;
        }
        with(|sim| {
            let model = model.clone();
            sim.received = Some(Received { id, offset, model });
        });
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

type Reader = tokio::io::ReadHalf<Wire>;

async fn more(reader: &mut Reader, inbox: &mut BytesMut) -> Result<(), String> {
    match reader.read_buf(inbox).await {
        Ok(0) => Err("the link ended".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn line(reader: &mut Reader, inbox: &mut BytesMut) -> Result<String, String> {
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

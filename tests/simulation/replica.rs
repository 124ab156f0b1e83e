//! A server as a replica of the sidecar in its pod: what it asks for, loads and applies, and how it becomes a master.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, WriteHalf, split};
use tokio::time::{Instant, sleep, timeout_at};

use super::model::{Model, Text, text};
use super::net::{Wire, knock};
use super::redis::{Loss, Node, new_id, parse};
use super::takeover::{line, more, snapshot};
use super::{Sim, fail, note, with};
use crate::runtime::simulated::{between, once_in};
use crate::wire::position::ReplId;
use crate::wire::resp::encode_command;

/// Where sidecars listen.
pub(crate) const PORT: u16 = 7000;
/// `repl-timeout`.
const TIMEOUT: Duration = Duration::from_secs(60);

/// `REPLICAOF`, as `process` says it.
pub(crate) fn replicaof(node: usize, process: &str, host: &str) {
    let server = with(|sim| sim.nodes[node].clone());
    if !server.up {
        return;
    }
    match (host, server.follows) {
        ("NO", Some(_)) => with(|sim| sim.promote(node, process)),
        ("NO", None) | (_, Some(_)) => {}
        (_, None) => {
            note(|| format!("{process} makes node {node} its replica"));
            // It asks to go on from what it has itself.
            with(|sim| sim.nodes[node].cached = true);
            begin(node);
        }
    }
}

/// The server is a replica of its pod's sidecar from now on.
pub(crate) fn begin(node: usize) {
    let number = with(|sim| {
        sim.ports_opened += 1;
        sim.nodes[node].follows = Some(sim.ports_opened);
        sim.nodes[node].given = false;
        sim.ports_opened
    });
    tokio::spawn(follow(node, number));
}

/// Tries its master every second, as long as it has that.
async fn follow(node: usize, number: u64) {
    while let Some(pod) = with(|sim| {
        let server = &sim.nodes[node];
        let follows = server.up && server.follows == Some(number);
        server.pod.clone().filter(|_| follows)
    }) {
        let is_loading = with(|sim| sim.nodes[node].loading);
        if !is_loading && let Some((wire, connection)) = knock(node, &pod).await {
            with(|sim| sim.nodes[node].master_link = Some(connection.clone()));
            let ended = replicate(wire, node, number).await;
            connection.cut(once_in(2));
            if let Err(error) = ended {
                note(|| format!("node {node} and its master: {error}"));
            }
            with(|sim| {
                if sim.nodes[node].follows == Some(number) {
                    sim.nodes[node].master_link = None;
                }
            });
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Looks at the server, if this is its master still.
fn of<T>(node: usize, number: u64, look: impl FnOnce(&mut Node) -> T) -> Result<T, String> {
    with(|sim| {
        let server = &mut sim.nodes[node];
        if !server.up || server.follows != Some(number) {
            return Err("it has left".to_owned());
        }
        Ok(look(server))
    })
}

async fn send(writer: &mut WriteHalf<Wire>, bytes: &[u8]) -> Result<(), String> {
    let sent = writer.write_all(bytes).await;
    sent.map_err(|error| error.to_string())
}

fn command(words: &[&str]) -> Vec<u8> {
    let args: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut bytes = Vec::new();
    encode_command(&args, &mut bytes);
    bytes
}

async fn replicate(wire: Wire, node: usize, number: u64) -> Result<(), String> {
    let (mut reader, mut writer) = split(wire);
    let mut inbox = BytesMut::new();
    let deadline = || Instant::now() + TIMEOUT;
    let silent = |_| "it is silent".to_owned();
    for words in [
        &["PING"][..],
        &["REPLCONF", "listening-port", "6379"],
        &["REPLCONF", "capa", "eof", "capa", "psync2"],
    ] {
        send(&mut writer, &command(words)).await?;
        let answer = timeout_at(deadline(), line(&mut reader, &mut inbox)).await;
        let answer = answer.map_err(silent)??;
        if answer.starts_with('-') {
            return Err(answer);
        }
    }
    let (id, first) = of(node, number, |server| match server.cached {
        true => (server.replid.to_string(), (server.offset + 1).to_string()),
        false => ("?".to_owned(), "-1".to_owned()),
    })?;
    send(&mut writer, &command(&["PSYNC", &id, &first])).await?;
    let answer = timeout_at(deadline(), line(&mut reader, &mut inbox)).await;
    let answer = answer.map_err(silent)??;
    let words: Vec<&str> = answer.split(' ').collect();
    let ["+FULLRESYNC", id, offset] = words[..] else {
        return Err(format!("answered {answer}"));
    };
    let id: ReplId = id.parse().map_err(|_| "no id")?;
    let offset: u64 = offset.parse().map_err(|_| "no offset")?;
    of(node, number, |server| server.cached = false)?;
    let header = timeout_at(deadline(), line(&mut reader, &mut inbox)).await;
    let header = header.map_err(silent)??;
    let rdb = snapshot(&mut reader, &mut inbox, &header, TIMEOUT).await?;
    let (model, mut db) = Model::read_by_replica(&rdb)?;
    if once_in(2) {
        // It loads for a while, and says that it is alive.
        sleep(Duration::from_millis(between(1, 3000))).await;
        send(&mut writer, b"\n").await?;
    }
    of(node, number, |server| server.load(id, offset, model))?;
    let created = || with(|sim| sim.created);
    let mut fed = created();
    with(|sim| sim.nodes[node].line = sim.oracle.line(id));
    let mut next = Instant::now();
    let mut heard = deadline();
    loop {
        while let Some((argv, length)) = parse(&inbox) {
            let _ = inbox.split_to(length);
            let now = with(|sim| sim.now_ms());
            let asked = argv.get(1).is_some_and(|word| &word[..] == b"GETACK");
            fed = created();
            of(node, number, |server| {
                server.apply(&mut db, &argv, now);
                server.received(length as u64);
            })?;
            if asked {
                next = Instant::now();
            }
        }
        let at = of(node, number, |server| {
            server.fed = fed;
            server.offset
        })?;
        if Instant::now() >= next {
            send(&mut writer, &command(&["REPLCONF", "ACK", &at.to_string()])).await?;
            next = Instant::now() + Duration::from_millis(between(500, 1500));
        }
        match timeout_at(next.min(heard), more(&mut reader, &mut inbox)).await {
            Ok(read) => {
                read?;
                heard = deadline();
            }
            Err(_) if Instant::now() >= heard => return Err("it is silent".to_owned()),
            Err(_) => {}
        }
    }
}

impl Node {
    /// All of what its master gives it.
    fn load(&mut self, id: ReplId, offset: u64, model: Model) {
        self.replid = id;
        self.replid2 = None;
        self.offset = offset;
        self.backlog_first = offset + 1;
        self.loaded = model.keys();
        self.model = model;
        self.cached = true;
        self.given = true;
        self.lost = None;
        if matches!(self.loses, Some(Loss::Evicts | Loss::Forgets)) {
            self.lose();
        }
    }

    fn apply(&mut self, db: &mut u32, argv: &[Text], now: i64) {
        let name = argv[0].to_ascii_uppercase();
        let grows = [&b"SET"[..], b"RPUSH", b"LPUSH", b"SADD", b"HSET"].contains(&&name[..]);
        if self.loses.is_some() && self.lost.is_none() && grows {
            self.lost = Some((*db, argv[1].clone()));
            self.count_loss();
        }
        let is_lost = |(of, key): &(u32, Text)| of == db && argv.get(1) == Some(key);
        if self.lost.as_ref().is_some_and(is_lost) {
            // What it does not have, it cannot change.
            if grows {
                self.count_loss();
            }
            return;
        }
        self.model.execute(db, argv, now);
    }

    /// One key is gone.
    fn lose(&mut self) {
        let Some((db, keys)) = self.model.dbs.iter_mut().next() else {
            return;
        };
        let db = *db;
        if let Some((key, _)) = keys.pop_first() {
            self.lost = Some((db, key));
        }
        if keys.is_empty() {
            self.model.dbs.remove(&db);
        }
        self.count_loss();
    }

    fn count_loss(&mut self) {
        match self.loses {
            Some(Loss::Evicts) => self.evicted += 1,
            Some(Loss::Refuses) => self.refused += 1,
            Some(Loss::Forgets) | None => {}
        }
    }
}

impl Sim {
    /// `REPLICAOF NO ONE`, as `process` says it: the server takes writes from now on.
    fn promote(&mut self, at: usize, process: &str) {
        if let Err(wrong) = self.may_be_opened(at, process) {
            fail(format!("{process} opens node {at}: {wrong}"));
        }
        let node = &mut self.nodes[at];
        let (before, line, offset) = (node.replid, node.line, node.offset);
        if let Some(link) = node.master_link.take() {
            link.cut(false);
        }
        node.follows = None;
        node.replid2 = Some((before, offset));
        node.replid = new_id();
        node.line = node.replid;
        node.is_restored = node.given;
        node.select_anew();
        let (id, model) = (node.replid, node.model.clone());
        let given = node.given;
        note(|| format!("{process} opens node {at}: {before} goes on as {id} from {offset}"));
        self.truth.begin(id, Some(line), offset, model);
        if given {
            for line in self.truth.line_of(line) {
                self.oracle.given_up.remove(&line);
                self.oracle.given_up_to.remove(&line);
            }
        }
        let counts = &mut self.oracle.counts;
        match given {
            true => counts.restored += 1,
            false => counts.kept += 1,
        }
    }

    /// Nothing is opened that does not hold what is stored, and what was confirmed.
    fn may_be_opened(&mut self, at: usize, process: &str) -> Result<(), String> {
        let node = &self.nodes[at];
        if !node.given {
            let lost = self.oracle.confirmed.iter().any(|(line, at)| {
                self.truth
                    .state_upto(*line, *at)
                    .is_some_and(|state| state.keys() > 0)
            });
            return match node.model.keys() {
                0 if lost => Err("it is empty, and was given nothing".to_owned()),
                _ => Ok(()),
            };
        }
        let (key, offset) = (node.replid, node.offset);
        let wanted = self.truth.state(node.line, offset);
        let wanted = wanted.ok_or_else(|| format!("{offset} of {key} is no boundary"))?;
        if let Some(wrong) = wanted.difference(&node.model, self.late_ms()) {
            return Err(format!("it does not hold what it was given: {wrong}"));
        }
        let sealed = self.oracle.sealed(key);
        if sealed.is_none() || self.oracle.end(key) != Some(offset) {
            return Err(format!(
                "it has {offset} of {key}, which is stored up to {:?}, and sealed after {sealed:?}",
                self.oracle.end(key)
            ));
        }
        let claimed = self.oracle.claimants.get(&(key, process.to_owned()));
        let claimed = claimed.ok_or_else(|| format!("it has never claimed {key}"))?;
        if *claimed <= node.fed {
            return Err(format!(
                "it has not looked at the claims on {key} again since it was given everything"
            ));
        }
        for (line, confirmed) in &self.oracle.confirmed {
            // A history that began empty, and in which nothing was written, holds nothing that could be lost.
            let is_nothing = self.truth.begins_empty(*line, *confirmed);
            if !is_nothing && !self.has(node.line, offset, *line, *confirmed) {
                return Err(format!(
                    "{confirmed} of {line} was confirmed, and is not in {offset} of {key}"
                ));
            }
        }
        Ok(())
    }

    /// Is what had happened in `line` up to `at` a part of what has happened in `of` up to `upto`?
    pub(crate) fn has(&self, of: ReplId, upto: u64, line: ReplId, at: u64) -> bool {
        let (mut here, mut end) = (of, upto);
        loop {
            if here == line || (self.truth.is_same(here, line, at) && at <= end) {
                return at <= end;
            }
            match self.truth.origin(here) {
                Some((began, Some(parent))) => {
                    end = end.min(began);
                    here = parent;
                }
                _ => return false,
            }
        }
    }

    /// Was a client of the server told that all up to here is stored?
    pub(crate) fn is_confirmed(&self, node: usize, offset: u64) -> bool {
        let line = self.nodes[node].line;
        self.oracle.told.get(&line) >= Some(&offset)
    }

    /// How many keys there were when a client was last told that what it wrote is stored.
    pub(crate) fn latest_keys(&self) -> usize {
        let last = self.oracle.last_confirmed;
        let last = last.and_then(|(line, at)| self.truth.state_upto(line, at));
        last.map_or(0, Model::keys)
    }

    /// A client was told that all up to here is stored. Does it count, or was it given up before?
    pub(crate) fn confirm(&mut self, line: ReplId, offset: u64) -> bool {
        let (mut line, offset) = (line, offset);
        while let Some((began, Some(parent))) = self.truth.origin(line)
            && offset <= began
        {
            line = parent;
        }
        let told = self.oracle.told.entry(line).or_default();
        *told = offset.max(*told);
        // It may have been stored before, and is told after.
        let given_up = self.oracle.given_up_to.get(&line);
        let is_kept = self
            .oracle
            .confirmed
            .get(&line)
            .is_some_and(|at| offset <= *at);
        if self.oracle.given_up.contains(&line)
            || (!is_kept && given_up.is_some_and(|upto| offset <= *upto))
        {
            return false;
        }
        let furthest = self.oracle.confirmed.entry(line).or_default();
        *furthest = offset.max(*furthest);
        true
    }

    /// What this server has is to be the latest, though it lacks something: an operator has decided so, or its machine was set back
    /// from `before`. Of that, what it lacks does not come back by itself.
    pub(crate) fn decide_for(&mut self, at: usize, before: Option<(ReplId, u64)>) {
        let (line, offset) = (self.nodes[at].line, self.nodes[at].offset);
        if before.is_none() {
            let kept: Vec<ReplId> = self.truth.line_of(line).collect();
            let lost = self.truth.all().filter(|line| !kept.contains(line));
            self.oracle.given_up.extend(lost);
            // And of those that it goes on from, what comes after it left them.
            for parent in kept.iter().skip(1) {
                self.oracle.given_up_to.insert(*parent, u64::MAX);
            }
        }
        for (of, at) in std::mem::take(&mut self.oracle.confirmed) {
            let concerned = before.is_none_or(|(line, offset)| self.has(line, offset, of, at));
            if !concerned {
                self.confirm(of, at);
                continue;
            }
            let (mut here, mut end) = (line, offset);
            loop {
                if here == of {
                    self.confirm(of, at.min(end));
                    if at > end {
                        // Another server that has it may still be told so.
                        let upto = self.oracle.given_up_to.entry(of).or_default();
                        *upto = at.max(*upto);
                    }
                    break;
                }
                match self.truth.origin(here) {
                    Some((began, Some(parent))) => {
                        end = end.min(began);
                        here = parent;
                    }
                    _ => break,
                }
            }
        }
    }

    /// Some keys, all at once, as an operator wipes them.
    pub(crate) fn flush_all(&mut self, node: usize) {
        let dbs: Vec<u32> = self.nodes[node].model.dbs.keys().copied().collect();
        for db in dbs {
            self.write(node, db, &[vec![text("FLUSHDB")]]);
        }
    }
}

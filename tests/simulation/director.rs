//! One run: what happens, in which order, and what must have come of it in the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::redis::Node;
use super::store::Objects;
use super::takeover::Takeover;
use super::{fail, failure, failures, net, note, restoring, store, with};
use crate::archive::{Archive, ArchiveError, MergeError};
use crate::capture::{Clock, SessionEnd};
use crate::config::{
    AckPolicy, BackupConfig, CaptureConfig, ConsolidateConfig, SpoolConfig, StoreConfig,
};
use crate::consolidate::merging::{MergeRequest, merge};
use crate::consolidate::{self, ConsolidateError, Worth, consolidate};
use crate::monitoring::status::Status;
use crate::recovery::{RecoveryError, RecoveryTarget};
use crate::runtime::simulated::{self, Process, below, between, once_in, pick, within};
use crate::wire::position::ReplId;
use crate::{runtime, service};

/// Once all is well again, so much time may pass until everything is stored: full syncs have a limit.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// What may go wrong in a run.
#[derive(Debug)]
pub(super) struct Troubles {
    pub(super) links: bool,
    pub(super) kills: bool,
    pub(super) store: bool,
    pub(super) failovers: bool,
    pub(super) losses: bool,
    pub(super) second: bool,
    pub(super) consolidates: bool,
    pub(super) spool: bool,
    pub(super) takeovers: bool,
    /// Restarts from one RDB file, again and again.
    pub(super) crashes: bool,
    /// The machine is set back to a snapshot of its memory.
    pub(super) snapshots: bool,
    /// Clocks of the program jump, and are set right.
    pub(super) clocks: bool,
}

impl Troubles {
    /// Does one writer follow one line of servers? (Two may take what the other stores of the last one for a server that lives.)
    fn is_one_server_after_the_other(&self) -> bool {
        !self.second
    }

    fn draw() -> Self {
        let none = once_in(10);
        let one = |times| !none && once_in(times);
        Self {
            links: one(2),
            kills: one(2),
            store: one(2),
            failovers: one(3),
            losses: one(6),
            second: one(3),
            consolidates: one(2),
            spool: one(3),
            takeovers: one(3),
            crashes: one(4),
            snapshots: one(4),
            clocks: one(4),
        }
    }
}

/// One under way.
pub(crate) type Consolidation = (Arc<Process>, JoinHandle<Result<(), ConsolidateError>>);

/// A `backfeed backup`.
pub(crate) struct Writer {
    pub(super) group: &'static str,
    pub(crate) process: Arc<Process>,
    shutdown: watch::Sender<bool>,
    status: Status,
    task: JoinHandle<Result<(), SessionEnd>>,
    stopping: bool,
}

impl Writer {
    pub(crate) fn start(group: &'static str, number: u64, capture: CaptureConfig) -> Self {
        let process = Process::new(&format!("{group}.{number}"));
        note(|| format!("{} starts", process.name));
        let config = BackupConfig {
            redis: "redis://redis:6379".parse().unwrap(),
            once: false,
            capture,
            consolidate: ConsolidateConfig::default(),
            grace: Duration::from_secs(10),
        };
        let (shutdown, stopped) = watch::channel(false);
        let status = Status::new();
        let told = status.clone();
        let task = within(&process, || {
            runtime::spawn(async move {
                let store = StoreConfig::at("simulated:");
                service::run_backup(config, &store, told, clock(group), stopped).await
            })
        });
        Self {
            group,
            process,
            shutdown,
            status,
            task,
            stopping: false,
        }
    }

    /// Has it ended by itself?
    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

pub(super) struct Director {
    pub(super) troubles: Troubles,
    pub(super) capture: CaptureConfig,
    pub(super) writers: Vec<Writer>,
    /// Groups that are to run.
    pub(super) wanted: Vec<&'static str>,
    pub(super) consolidation: Option<Consolidation>,
    pub(super) started: u64,
    /// At the same time, of the same history.
    pub(super) takeovers: Vec<Takeover>,
    /// So many at most.
    pub(super) rivals: usize,
    /// It was begun, and must come to its end.
    pub(super) taking_over: bool,
    /// The history of which a takeover came to nothing.
    given_up: Option<ReplId>,
    /// Servers that were restored and promoted; at most one of them goes on.
    pub(super) candidates: Vec<(&'static str, usize)>,
    /// For the groups of those who take over.
    pub(super) groups: Vec<&'static str>,
    /// The server that counts.
    pub(super) master: usize,
    /// As it was when it saved.
    pub(super) saved: Option<Node>,
    /// As it was when its machine was.
    pub(super) snapshot: Option<Node>,
    _spool: Option<tempfile::TempDir>,
}

/// Runs everything.
pub(crate) async fn direct() -> Result<(), String> {
    let mut director = Director::new(Troubles::draw());
    tokio::spawn(failures::ping());
    let steps = between(20, 120);
    for _ in 0..steps {
        director.step().await;
        director.look_after().await?;
        failure()?;
        if once_in(16) {
            let objects = with(|sim| sim.objects.clone());
            restoring::check(objects, false).await?;
        }
    }
    let objects = director.end().await?;
    if director.troubles.is_one_server_after_the_other() {
        let key = with(|sim| sim.key_of(&sim.nodes[director.master]));
        restoring::check_latest(objects.clone(), key, "redis:6379").await?;
    }
    restoring::check(objects, true).await
}

impl Director {
    pub(super) fn new(troubles: Troubles) -> Self {
        note(|| format!("{troubles:?}"));
        let version = if once_in(4) { 6 } else { 7 };
        let backlog = pick(&[300, 3000, 30_000, 1 << 20]);
        with(|sim| {
            let node = Node::fresh(version, backlog);
            sim.truth.begin(node.replid, None, 0, node.model.clone());
            sim.nodes.push(node);
            for group in ["a", "b"] {
                sim.routes.insert(group.to_owned(), 0);
            }
            sim.weather = net::Weather {
                latency: pick(&[0, 2, 20, 300]),
                piece: pick(&[100, 1000, 1 << 20]),
            };
            sim.huge = once_in(if troubles.spool { 4 } else { 12 });
            sim.clients(0, below(20));
        });
        let spool = troubles.spool.then(|| tempfile::tempdir().unwrap());
        let segment_size = 64 << 10;
        let capture = CaptureConfig {
            flush_interval: Duration::from_millis(pick(&[1, 50, 1000, 5000])),
            idle_interval: Duration::from_secs(pick(&[5, 60, 600])),
            segment_size,
            memory_limit: segment_size * pick(&[2, 2, 16]),
            spool: spool.as_ref().map(|spool| SpoolConfig {
                dir: spool.path().to_owned(),
                limit: 1 << 20,
            }),
            ack: AckPolicy::Stored,
        };
        Self {
            troubles,
            capture,
            writers: Vec::new(),
            wanted: vec!["a"],
            consolidation: None,
            takeovers: Vec::new(),
            rivals: 1,
            taking_over: false,
            given_up: None,
            candidates: Vec::new(),
            groups: vec!["l", "k", "j", "i", "h", "g", "f", "e", "d", "c"],
            started: 0,
            master: 0,
            saved: None,
            snapshot: None,
            _spool: spool,
        }
    }

    pub(super) fn start(&mut self, group: &'static str) {
        self.started += 1;
        let writer = Writer::start(group, self.started, self.capture.clone());
        self.writers.push(writer);
    }

    /// Something happens.
    pub(super) async fn step(&mut self) {
        let master = self.master;
        match below(29) {
            0..8 => {
                let count = if once_in(8) { 40 } else { between(1, 6) };
                with(|sim| sim.clients(master, count));
            }
            8 => with(|sim| {
                if sim.nodes[master].up {
                    sim.write_bare(master, &["REPLCONF", "GETACK", "*"]);
                }
            }),
            9 => with(|sim| {
                if sim.nodes[master].up {
                    sim.write_bare(master, &["PING"]);
                }
            }),
            10..16 => {}
            16..18 if self.troubles.links => {
                if once_in(2) {
                    // While bytes are under way.
                    let takes = with(|sim| {
                        sim.clients(master, 3);
                        sim.weather.latency
                    });
                    sleep(Duration::from_millis(below(takes + 2))).await;
                }
                failures::links();
            }
            18..20 if self.troubles.kills => self.trouble_processes(),
            20..22 if self.troubles.store => failures::store(),
            // Of a server that is being replaced nothing more comes: else there would be two of one name, and the last one wins.
            22 if self.troubles.failovers && !self.taking_over && self.is_known() => {
                self.master = match below(4) {
                    0 => failures::shut_down(master).await,
                    _ => failures::fail_over(master, pick(&[0, 0, below(200), below(3000)])),
                };
            }
            // A server whose history nobody has stored yet would be another one of the same name to those who take over.
            24 if self.troubles.takeovers && self.groups.len() > 3 => {
                let known = self.as_it_is().is_some();
                if known && !self.taking_over {
                    self.taking_over = true;
                    self.rivals = pick(&[1, 2, 2, 3]);
                }
            }
            26 if self.troubles.crashes && !self.taking_over => match &self.saved {
                Some(saved) => self.master = failures::crash(master, saved),
                None => self.saved = self.as_it_is(),
            },
            27 if self.troubles.snapshots && !self.taking_over && self.capture.spool.is_none() => {
                let line = with(|sim| sim.nodes[master].line);
                match self
                    .snapshot
                    .take()
                    .filter(|snapshot| snapshot.line == line)
                {
                    Some(snapshot) => {
                        self.master = failures::set_back(master, &snapshot);
                        self.saved = None;
                    }
                    None => self.snapshot = self.as_it_is(),
                }
            }
            28 if self.troubles.clocks => {
                let group = self.wanted.first().copied().filter(|_| once_in(2));
                failures::clock(group.unwrap_or_else(|| pick(&["a", "b", "s", "k"])));
            }
            25 => {
                // Who was superseded may still be written to.
                let node = with(|sim| below(sim.nodes.len() as u64) as usize);
                with(|sim| sim.clients(node, 2));
            }
            23 => {
                if self.troubles.losses && !self.taking_over && once_in(4) {
                    // Once, or again and again: full syncs have a limit.
                    for _ in 0..pick(&[1, 1, 1, 9]) {
                        self.master = failures::lose_everything(self.master);
                        sleep(Duration::from_millis(between(100, 30_000))).await;
                    }
                } else if self.troubles.second
                    && self.wanted.len() == 1
                    && !self.writers.iter().any(|writer| writer.group == "b")
                {
                    with(|sim| sim.routes.insert("b".to_owned(), master));
                    self.wanted.push("b");
                } else if self.troubles.consolidates {
                    self.consolidate();
                }
            }
            _ => {}
        }
        let pause = match below(10) {
            0 => between(5000, 30_000),
            1..4 => between(200, 3000),
            _ => below(200),
        };
        sleep(Duration::from_millis(pause)).await;
    }

    /// The master, if the store knows what it does.
    pub(super) fn as_it_is(&self) -> Option<Node> {
        with(|sim| {
            let node = &sim.nodes[self.master];
            let known = sim.key_of(node).and_then(|key| sim.oracle.end(key));
            (node.up && known.is_some()).then(|| node.clone())
        })
    }

    /// What was set back and is not known yet is no point to begin from.
    fn is_known(&self) -> bool {
        with(|sim| sim.key_of(&sim.nodes[self.master]).is_some())
    }

    fn trouble_processes(&mut self) {
        let count = self.writers.len() as u64;
        if count == 0 {
            return;
        }
        let writer = &mut self.writers[below(count) as usize];
        match below(6) {
            0 => {
                note(|| format!("{} is to stop", writer.process.name));
                writer.stopping = true;
                writer.shutdown.send_replace(true);
            }
            1 if !self.takeovers.is_empty() => {
                let which = below(self.takeovers.len() as u64) as usize;
                self.takeovers[which].die_in(below(300));
            }
            2 if self.consolidation.is_some() => {
                if let Some((process, _)) = &self.consolidation {
                    process.die_in(below(60));
                }
            }
            _ => {
                let steps = pick(&[below(10), below(100), below(600)]);
                note(|| format!("{} is to die in {steps} steps", writer.process.name));
                writer.process.die_in(steps);
            }
        }
    }

    pub(super) fn consolidate(&mut self) {
        if self.consolidation.is_some() {
            return;
        }
        self.started += 1;
        self.consolidation = Some(begin_consolidation(self.started, "redis:6379"));
    }

    /// Who died or ended, and whether that was right; starts those who are to run.
    pub(super) async fn look_after(&mut self) -> Result<(), String> {
        let mut left = Vec::new();
        for writer in std::mem::take(&mut self.writers) {
            let spooled = writer.status.view().spool_bytes > 0;
            with(|sim| sim.oracle.counts.spooled += u64::from(spooled));
            if writer.process.is_dead() {
                with(|sim| sim.oracle.counts.kills += 1);
            } else if writer.task.is_finished() {
                self.ended(writer).await?;
            } else {
                left.push(writer);
            }
        }
        self.writers = left;
        if let Some((process, task)) = self.consolidation.take() {
            if task.is_finished() {
                check_consolidation(task.await.map_err(|error| error.to_string())?)?;
            } else if !process.is_dead() {
                self.consolidation = Some((process, task));
            }
        }
        self.look_after_takeovers().await?;
        for group in self.wanted.clone() {
            if self.taking_over {
                break;
            }
            let runs = self.writers.iter().any(|writer| writer.group == group);
            if !runs && once_in(3) {
                self.start(group);
            }
        }
        Ok(())
    }

    async fn look_after_takeovers(&mut self) -> Result<(), String> {
        let mut left = Vec::new();
        let tried = !self.takeovers.is_empty();
        for takeover in std::mem::take(&mut self.takeovers) {
            if !takeover.is_over() {
                left.push(takeover);
            } else if let Some(node) = takeover.end().await? {
                let group = self.groups.pop().ok_or("no group is left")?;
                with(|sim| sim.routes.insert(group.to_owned(), node));
                let from = with(|sim| sim.nodes[node].replid2.map(|(id, _)| id));
                let wanted = with(|sim| sim.key_of(&sim.nodes[self.master]));
                if self.taking_over && from.is_some() && from == wanted {
                    self.candidates.push((group, node));
                } else {
                    // Too late, and it does not know.
                    with(|sim| sim.oracle.counts.in_vain += 1);
                    self.start(group);
                }
            }
        }
        self.takeovers = left;
        let key = with(|sim| sim.key_of(&sim.nodes[self.master]));
        if key.is_some_and(|key| {
            Some(key) == self.given_up && with(|sim| sim.oracle.sealed(key)).is_some()
        }) {
            // The store has sealed it late. The sidecar comes again.
            self.taking_over = true;
        }
        if self.taking_over {
            self.settle_takeover();
        }
        if !self.taking_over {
            return Ok(());
        }
        for (group, node) in self.candidates.clone() {
            let runs = self.writers.iter().any(|writer| writer.group == group);
            if !runs && once_in(3) {
                self.start(group);
            }
            with(|sim| sim.clients(node, 1));
        }
        // It tries again, as a sidecar does.
        let sealed = with(|sim| {
            let key = sim.key_of(&sim.nodes[self.master]);
            key.and_then(|key| sim.oracle.sealed(key)).is_some()
        });
        if tried && self.takeovers.is_empty() && self.candidates.is_empty() && !sealed {
            // Nothing has happened yet.
            self.taking_over = false;
            self.given_up = key;
        } else if self.takeovers.len() < self.rivals && self.candidates.is_empty() {
            self.started += 1;
            let takeover = Takeover::begin(self.started, self.master, clock("s"));
            self.takeovers.push(takeover);
        }
        Ok(())
    }

    /// Is it recorded who goes on?
    fn settle_takeover(&mut self) {
        let old = self.master;
        let goes_on = with(|sim| {
            let key = sim.key_of(&sim.nodes[old])?;
            let child = sim.oracle.successors.get(&key)?;
            let is_it = |node: &Node| node.replid == *child;
            sim.nodes.iter().position(is_it)
        });
        let Some(goes_on) = goes_on else {
            return;
        };
        let Some((group, _)) = self.candidates.iter().find(|(_, node)| *node == goes_on) else {
            // Its process has not ended yet.
            return;
        };
        note(|| format!("{group} goes on"));
        self.wanted = vec![*group];
        self.master = goes_on;
        self.taking_over = false;
        let in_vain = self.candidates.len() as u64 - 1;
        with(|sim| {
            sim.oracle.counts.takeovers += 1;
            sim.oracle.counts.in_vain += in_vain;
            // The old one may live on, or be gone.
            if once_in(2) {
                sim.stop_node(old);
                sim.nodes[old].up = once_in(2);
            }
        });
        self.candidates.clear();
    }

    async fn ended(&mut self, writer: Writer) -> Result<(), String> {
        let name = &writer.process.name;
        let end = writer
            .task
            .await
            .map_err(|error| format!("{name}: {error}"))?;
        note(|| format!("{name} ends: {end:?}"));
        match end {
            Ok(()) if writer.stopping => Ok(()),
            Err(SessionEnd::Superseded { at, .. })
                if self.taking_over || !self.wanted.contains(&writer.group) =>
            {
                let (sealed, goes_on) = with(|sim| {
                    let goes_on = sim.oracle.successors.contains_key(&at.history);
                    (sim.oracle.sealed(at.history), goes_on)
                });
                // A history goes on from the last boundary before the seal.
                if sealed == Some(at.offset.0)
                    || (goes_on && sealed.is_some_and(|sealed| at.offset.0 < sealed))
                {
                    with(|sim| sim.oracle.counts.superseded += 1);
                    Ok(())
                } else {
                    Err(format!(
                        "{name} was superseded at {at}, and the seal is at {sealed:?}"
                    ))
                }
            }
            Err(SessionEnd::Archive(error)) if !error.is_transient() => Ok(()),
            Err(end) if end.is_permanent() && end.to_string().contains("simulation") => Ok(()),
            end => Err(format!("{name} ended with {end:?}")),
        }
    }

    /// Clients write and more happens, step by step: up to `writes` writes each.
    pub(super) async fn work(&mut self, steps: u64, writes: u64) -> Result<(), String> {
        for _ in 0..steps {
            let master = self.master;
            with(|sim| sim.clients(master, between(1, writes)));
            self.step().await;
            self.look_after().await?;
            failure()?;
        }
        Ok(())
    }

    /// All comes to its end. What is then in the store.
    pub(super) async fn end(&mut self) -> Result<Objects, String> {
        self.calm().await?;
        self.converge().await?;
        self.stop().await?;
        failure()?;
        Ok(with(|sim| sim.objects.clone()))
    }

    /// Nothing goes wrong any more.
    pub(super) async fn calm(&mut self) -> Result<(), String> {
        note(|| "calm".to_owned());
        with(|sim| {
            sim.wrong_clocks.clear();
            sim.store_weather = store::Weather::FAIR;
            sim.weather = net::Weather {
                latency: 2,
                piece: 1 << 20,
            };
        });
        for writer in &self.writers {
            writer.process.spare();
        }
        for takeover in &self.takeovers {
            takeover.spare();
        }
        let began = Instant::now();
        loop {
            self.look_after().await?;
            sleep(Duration::from_secs(1)).await;
            let enough = began.elapsed() > Duration::from_secs(5);
            if enough && !self.taking_over {
                break;
            }
            if began.elapsed() > PATIENCE {
                return Err("nobody takes over".to_owned());
            }
        }
        for group in self.wanted.clone() {
            if !self.writers.iter().any(|writer| writer.group == group) {
                self.start(group);
            }
        }
        Ok(())
    }

    /// Everything that the master has comes into the store.
    async fn converge(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let master = self.master;
        loop {
            // Something new, so that a link that has gone silent is noticed.
            let wanted = with(|sim| {
                let before = sim.nodes[master].offset;
                while sim.nodes[master].offset == before {
                    sim.clients(master, 1);
                }
                sim.nodes[master].offset
            });
            for _ in 0..10 {
                sleep(Duration::from_secs(1)).await;
                self.look_after().await?;
                failure()?;
                let stored = with(|sim| {
                    let node = &sim.nodes[master];
                    sim.key_of(node)
                        .is_some_and(|key| sim.oracle.holds(key, wanted))
                });
                // Whoever was superseded has noticed.
                let superseded = self.writers.iter().any(|writer| {
                    // One that does not reach its server cannot ask it; or the server has lost what it had, and goes its way.
                    let sealed = with(|sim| {
                        let node = sim.node_for(writer.group)?;
                        let key = sim.key_of(&sim.nodes[node])?;
                        sim.oracle.sealed(key)
                    });
                    sealed.is_some() && !self.wanted.contains(&writer.group)
                });
                if superseded && once_in(10) {
                    with(|sim| (0..sim.nodes.len()).for_each(|node| sim.clients(node, 1)));
                }
                if stored && !superseded {
                    note(|| "everything is stored".to_owned());
                    return Ok(());
                }
            }
            if began.elapsed() > PATIENCE {
                let node = with(|sim| (sim.nodes[master].replid, sim.nodes[master].offset));
                let end = with(|sim| sim.oracle.end(node.0));
                return Err(format!(
                    "{node:?} is stored up to {end:?} after {PATIENCE:?}"
                ));
            }
        }
    }

    /// A graceful end stores the very last byte.
    async fn stop(&mut self) -> Result<(), String> {
        let wanted = with(|sim| sim.nodes[self.master].offset);
        sleep(Duration::from_secs(5)).await;
        for mut writer in std::mem::take(&mut self.writers) {
            writer.stopping = true;
            writer.shutdown.send_replace(true);
            let began = Instant::now();
            while !writer.task.is_finished() {
                sleep(Duration::from_secs(1)).await;
                if began.elapsed() > Duration::from_secs(120) {
                    return Err(format!("{} does not stop", writer.process.name));
                }
            }
            self.ended(writer).await?;
        }
        with(|sim| {
            let node = &sim.nodes[self.master];
            let end = sim.key_of(node).and_then(|key| sim.oracle.end(key));
            if end >= Some(wanted) {
                Ok(())
            } else {
                let (id, at) = (node.replid, wanted);
                Err(format!(
                    "{id} is at {at}, and stored up to {end:?} after the end"
                ))
            }
        })
    }
}

/// A new base is made of what `service` wrote last.
pub(crate) fn begin_consolidation(number: u64, service: &str) -> Consolidation {
    let service = service.to_owned();
    let process = Process::new(&format!("k.{number}"));
    let memory_limit = pick(&[1 << 16, 1 << 20, 256 << 20]);
    let now_unix_ms = clock("k")();
    let merges = once_in(2);
    let deletes = merges && once_in(2);
    note(|| format!("{} consolidates", process.name));
    let task = within(&process, || {
        runtime::spawn(async move {
            let archive = Archive::open(store::store()).await?;
            if merges {
                merge_all(&archive, deletes).await?;
            }
            let request = consolidate::Request {
                history: None,
                service: Some(service),
                recovery_target: RecoveryTarget::Latest,
                memory_limit,
                worth: Worth::AnyLog,
                time_limit: None,
                now_unix_ms,
            };
            let report = consolidate(&archive, &request, &()).await?;
            note(|| format!("consolidated from {} to {}", report.from, report.to));
            Ok(())
        })
    });
    (process, task)
}

/// All logs are merged as far as they can be.
pub(super) async fn merge_all(archive: &Archive, delete: bool) -> Result<(), ArchiveError> {
    let request = MergeRequest {
        history: None,
        merged_to: None,
        limit: u64::MAX,
        dry_run: false,
        delete,
        writer: "k".to_owned(),
    };
    match merge(archive, &request, &()).await {
        Ok(report) => {
            note(|| format!("merged {} segments", report.segments));
            if let Some(error @ MergeError::Differs { .. }) = report.failure {
                fail(error.to_string());
            }
        }
        // The store tells no times.
        Err(MergeError::Archive(ArchiveError::Timeless { .. })) => {}
        Err(MergeError::Archive(error)) => return Err(error),
        Err(error) => fail(error.to_string()),
    }
    Ok(())
}

pub(crate) fn check_consolidation(done: Result<(), ConsolidateError>) -> Result<(), String> {
    let Err(error) = done else {
        return Ok(());
    };
    note(|| format!("consolidation: {error}"));
    let by_store = |error: &ConsolidateError| {
        let text = error.to_string();
        text.contains("simulation")
    };
    match &error {
        error if error.is_transient() || by_store(error) => Ok(()),
        ConsolidateError::Restore(RecoveryError::NothingToRestore { .. })
        | ConsolidateError::Archive(ArchiveError::EmptyStore { .. }) => Ok(()),
        // Two writers of a server that lost everything: while one stores the rest of its feed, that looks alive to the other.
        ConsolidateError::Restore(RecoveryError::Ambiguous(_)) => Ok(()),
        ConsolidateError::Rebuild(error) if error.is_memory() => Ok(()),
        error => Err(format!("consolidation: {error}")),
    }
}

/// The wall clock of a process.
pub(crate) fn clock(group: &'static str) -> Clock {
    let skew = if once_in(3) {
        below(20_000) as i64 - 10_000
    } else {
        0
    };
    Arc::new(move || {
        if simulated::is_on() {
            with(|sim| {
                let wrong = sim.wrong_clocks.get(group).copied();
                sim.now_ms() + skew + wrong.unwrap_or(0)
            })
        } else {
            0
        }
    })
}

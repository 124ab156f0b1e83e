//! Pods: a server and the sidecar beside it, one pod or two on one store, as `backfeed sidecar` runs.
//!
//! Everything in a pod may die at any await, both servers may restart at any time: empty, as a replica or as a master, from an RDB file
//! of before, from a snapshot of the machine's memory, or without room for what they are given.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::director::{Consolidation, begin_consolidation, check_consolidation, clock};
use super::model::text;
use super::redis::{Loss, Node};
use super::takeover::form_of;
use super::{failure, failures, net, note, replica, restoring, store, with};
use crate::capture::SessionEnd;
use crate::config::{
    AckPolicy, Admission, CaptureConfig, ConsolidateConfig, Listen, SidecarConfig, StoreConfig,
    WhenBehind,
};
use crate::monitoring::status::Status;
use crate::runtime;
use crate::runtime::simulated::{Process, below, between, once_in, pick, within};
use crate::sidecar::{self, SidecarError};

/// Once all is well again, a server that waits is opened, and what is written to it is confirmed, within this time.
/// (A server that did not hold what it was given is given it again after five minutes; full syncs have a limit.)
const PATIENCE: Duration = Duration::from_secs(2 * 3600);
/// A fresh server beside a fresh sidecar, with nothing else around, is opened within this time.
const RESTORE_PATIENCE: Duration = Duration::from_secs(180);
/// An operator looks after what waits for a decision once in so many steps.
const OPERATOR: u64 = 6;

/// What may go wrong in a run.
#[derive(Debug)]
struct Troubles {
    links: bool,
    kills: bool,
    store: bool,
    /// Servers restart in their pods.
    restarts: bool,
    /// From RDB files.
    files: bool,
    /// From snapshots of the machine's memory.
    snapshots: bool,
    /// As masters that wait for nobody.
    unguarded: bool,
    /// Without room for their data.
    losses: bool,
    /// Pods go, and others come.
    pods: bool,
    /// The next pod boots before the last one is gone.
    two: bool,
}

impl Troubles {
    fn draw() -> Self {
        let none = once_in(12);
        let one = |times| !none && once_in(times);
        Self {
            links: one(2),
            kills: one(2),
            store: one(2),
            restarts: one(2),
            files: one(2),
            snapshots: one(3),
            unguarded: one(3),
            losses: one(3),
            pods: one(2),
            two: one(2),
        }
    }
}

/// A `backfeed sidecar`.
pub(crate) struct Running {
    pub(crate) process: Arc<Process>,
    shutdown: watch::Sender<bool>,
    status: Status,
    task: JoinHandle<Result<(), SidecarError>>,
    stopping: bool,
    /// `--when-behind capture`
    keeps: bool,
}

impl Running {
    pub(crate) fn start(
        group: &str,
        number: u64,
        capture: CaptureConfig,
        when_behind: WhenBehind,
    ) -> Self {
        let process = Process::new(&format!("{group}.{number}"));
        note(|| format!("{} starts ({when_behind:?})", process.name));
        let config = SidecarConfig {
            name: "one".to_owned(),
            redis: "redis://127.0.0.1:6379".parse().unwrap(),
            listen: Listen::new(
                format!("127.0.0.1:{}", replica::PORT).parse().unwrap(),
                Admission::default(),
            )
            .unwrap(),
            history: None,
            open_after: None,
            promote_incomplete: false,
            when_behind,
            serve_log: form_of(number),
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
                sidecar::run(config, &store, told, clock("s"), stopped).await
            })
        });
        Self {
            process,
            shutdown,
            status,
            task,
            stopping: false,
            keeps: when_behind == WhenBehind::Capture,
        }
    }

    fn says(&self, what: &str) -> bool {
        let said = self.status.view().last_error;
        said.is_some_and(|said| said.contains(what))
    }
}

/// A server, and the sidecar beside it.
struct Pod {
    group: String,
    node: usize,
    sidecar: Option<Running>,
    /// Its last sidecar ended as another one goes on.
    superseded: u64,
    /// The server as it was when it saved, and whether it has been restarted from that.
    saved: Option<(Node, bool)>,
    /// The server as it was when its machine was.
    snapshot: Option<Node>,
    /// It was told that its server lacks room.
    told: bool,
}

struct Director {
    troubles: Troubles,
    capture: CaptureConfig,
    backlog: u64,
    pods: Vec<Pod>,
    consolidation: Option<Consolidation>,
    started: u64,
    calm: bool,
}

/// Runs everything.
pub(crate) async fn direct() -> Result<(), String> {
    let mut director = Director::new();
    tokio::spawn(failures::ping());
    director.boot(true);
    if director.troubles.two && once_in(3) {
        // Both find the store empty.
        director.boot(true);
    }
    for _ in 0..between(20, 120) {
        director.step().await;
        director.look_after().await?;
        failure()?;
        if once_in(16) {
            let objects = with(|sim| sim.objects.clone());
            restoring::check(objects, false).await?;
        }
    }
    director.calm();
    director.converge().await?;
    director.replace_all().await?;
    failure()?;
    let objects = with(|sim| sim.objects.clone());
    let key = with(|sim| sim.key_of(&sim.nodes[director.pods[0].node]));
    restoring::check_latest(objects.clone(), key, "sidecar").await?;
    restoring::check(objects, true).await
}

impl Director {
    fn new() -> Self {
        let troubles = Troubles::draw();
        note(|| format!("{troubles:?}"));
        with(|sim| {
            sim.weather = net::Weather {
                latency: pick(&[0, 2, 20, 300]),
                piece: pick(&[100, 1000, 1 << 20]),
            };
            sim.huge = once_in(12);
        });
        let segment_size = 64 << 10;
        let capture = CaptureConfig {
            flush_interval: Duration::from_millis(pick(&[1, 50, 1000, 5000])),
            idle_interval: Duration::from_secs(pick(&[5, 60, 600])),
            segment_size,
            memory_limit: segment_size * pick(&[2, 2, 16]),
            spool: None,
            ack: AckPolicy::Stored,
        };
        Self {
            troubles,
            capture,
            backlog: pick(&[300, 3000, 30_000, 1 << 20]),
            pods: Vec::new(),
            consolidation: None,
            started: 0,
            calm: false,
        }
    }

    /// A server without anything.
    fn fresh(&self, group: &str) -> Node {
        let mut node = Node::fresh(7, self.backlog);
        node.pod = Some(group.to_owned());
        with(|sim| {
            sim.truth.begin(node.replid, None, 0, node.model.clone());
        });
        node
    }

    /// A new pod, whose server waits for its sidecar, or comes up as an empty master.
    fn boot(&mut self, waits: bool) {
        self.started += 1;
        let group = format!("pod{}", self.started);
        note(|| format!("{group} boots, and its server waits: {waits}"));
        let mut node = self.fresh(&group);
        if self.troubles.losses && !self.calm && once_in(6) {
            node.loses = Some(pick(&[Loss::Evicts, Loss::Refuses, Loss::Forgets]));
        }
        let node = with(|sim| {
            sim.nodes.push(node);
            let at = sim.nodes.len() - 1;
            sim.routes.insert(group.clone(), at);
            at
        });
        if waits {
            replica::begin(node);
        }
        self.pods.push(Pod {
            group,
            node,
            sidecar: None,
            superseded: 0,
            saved: None,
            snapshot: None,
            told: false,
        });
        let pod = self.pods.len() - 1;
        self.start(pod, WhenBehind::Wait);
    }

    fn start(&mut self, pod: usize, when_behind: WhenBehind) {
        self.started += 1;
        let pod = &mut self.pods[pod];
        let capture = self.capture.clone();
        pod.sidecar = Some(Running::start(
            &pod.group,
            self.started,
            capture,
            when_behind,
        ));
    }

    fn any(&self) -> usize {
        below(self.pods.len() as u64) as usize
    }

    /// Something happens.
    async fn step(&mut self) {
        let pod = self.any();
        let node = self.pods[pod].node;
        match below(30) {
            0..9 => {
                let count = if once_in(8) { 40 } else { between(1, 6) };
                with(|sim| sim.clients(node, count));
            }
            // A client waits.
            9..11 => with(|sim| {
                let server = &sim.nodes[node];
                if server.up && server.is_master() && !server.loading {
                    sim.write_bare(node, &["REPLCONF", "GETACK", "*"]);
                }
            }),
            11..13 if self.troubles.links => failures::links(),
            13..15 if self.troubles.kills => self.trouble_sidecar(pod),
            15..17 if self.troubles.store => failures::store(),
            17..20 if self.troubles.restarts => self.restart_server(pod),
            20 if self.troubles.restarts && self.pods.len() == 2 => {
                // Both at once.
                self.restart_server(0);
                self.restart_server(1);
            }
            21 => self.save(pod),
            22 => with(|sim| sim.clients(node, pick(&[40, 200]))),
            23 if self.troubles.pods => {
                self.delete(pod);
                if self.pods.is_empty() {
                    self.boot(true);
                }
            }
            24 if self.troubles.two && self.pods.len() < 2 => self.boot(true),
            25 if self.troubles.files && self.troubles.restarts => match self.pods[pod].saved {
                Some(_) => {
                    let waits = once_in(2);
                    self.restart_from_file(pod, waits);
                }
                None => self.save(pod),
            },
            26 if self.troubles.snapshots => match self.pods[pod].snapshot {
                Some(_) => self.set_back_to_memory(pod),
                None => self.snap(pod),
            },
            27 if self.consolidation.is_none() => {
                self.started += 1;
                self.consolidation = Some(begin_consolidation(self.started, "sidecar"));
            }
            _ => {}
        }
        let pause = match below(10) {
            0 => between(5000, 60_000),
            1..4 => between(200, 3000),
            _ => below(200),
        };
        sleep(Duration::from_millis(pause)).await;
    }

    fn trouble_sidecar(&mut self, pod: usize) {
        let Some(sidecar) = &mut self.pods[pod].sidecar else {
            return;
        };
        if once_in(6) {
            note(|| format!("{} is to stop", sidecar.process.name));
            sidecar.stopping = true;
            sidecar.shutdown.send_replace(true);
        } else {
            let steps = pick(&[below(10), below(100), below(1000)]);
            note(|| format!("{} is to die in {steps} steps", sidecar.process.name));
            sidecar.process.die_in(steps);
        }
    }

    /// The server as it is, if the store knows it.
    fn as_it_is(&self, pod: usize) -> Option<Node> {
        with(|sim| {
            let node = &sim.nodes[self.pods[pod].node];
            let known = sim.key_of(node).and_then(|key| sim.oracle.end(key));
            let is_whole = node.up && node.is_master() && !node.loading && known.is_some();
            is_whole.then(|| node.clone())
        })
    }

    /// The server saves.
    fn save(&mut self, pod: usize) {
        if let Some(node) = self.as_it_is(pod) {
            self.pods[pod].saved = Some((node, false));
        }
    }

    /// A snapshot of its machine is taken.
    fn snap(&mut self, pod: usize) {
        self.pods[pod].snapshot = self.as_it_is(pod);
    }

    /// Has an operator just decided for what its server has? Then it is left alone.
    fn is_kept(&self, pod: usize) -> bool {
        let sidecar = self.pods[pod].sidecar.as_ref();
        sidecar.is_some_and(|sidecar| sidecar.keeps)
    }

    /// The server of a pod is gone, and comes back in one way or another.
    fn restart_server(&mut self, pod: usize) {
        let unguarded = self.troubles.unguarded && !self.is_kept(pod);
        if self.troubles.files && once_in(3) {
            return self.restart_from_file(pod, once_in(2));
        }
        let waits = !(unguarded && once_in(3));
        let node = self.fresh(&self.pods[pod].group);
        let new = self.come_back(pod, node, waits);
        // A client is there at once. It came up empty, and has less than is stored.
        if !waits && once_in(2) && with(|sim| sim.latest_keys() > 0) {
            let unit = vec![text("SET"), text("s0"), text("x")];
            with(|sim| {
                sim.write(new, 0, &[unit]);
                sim.oracle.counts.tiny += 1;
            });
        }
    }

    fn restart_from_file(&mut self, pod: usize, waits: bool) {
        if self.is_kept(pod) || self.pods[pod].saved.is_none() {
            return;
        }
        let node = self.node_of_file(pod, waits);
        self.come_back(pod, node, waits);
    }

    /// `node` in the place of the server of a pod.
    fn come_back(&mut self, pod: usize, mut node: Node, waits: bool) -> usize {
        if self.troubles.losses && once_in(4) {
            node.loses = Some(pick(&[Loss::Evicts, Loss::Refuses, Loss::Forgets]));
        }
        let pod = &mut self.pods[pod];
        note(|| {
            let role = if waits { "a replica" } else { "a master" };
            let (id, offset, keys) = (node.replid, node.offset, node.model.keys());
            let group = &pod.group;
            format!("{group}'s server restarts as {role}: {id} at {offset}, {keys} keys")
        });
        let loads = node.loading;
        let new = with(|sim| sim.replace(pod.node, node));
        pod.node = new;
        pod.told = false;
        pod.snapshot = None;
        if waits {
            replica::begin(new);
        }
        if loads {
            tokio::spawn(async move {
                sleep(Duration::from_millis(below(5000))).await;
                with(|sim| sim.nodes[new].loading = false);
            });
        }
        new
    }

    /// As it loads an RDB file of before.
    fn node_of_file(&mut self, pod: usize, waits: bool) -> Node {
        let pod = &mut self.pods[pod];
        let (saved, again) = pod.saved.as_mut().unwrap();
        with(|sim| {
            sim.oracle.counts.crashes += 1;
            sim.oracle.counts.twofold += u64::from(*again);
        });
        *again = true;
        let (at, model) = (saved.offset, saved.model.clone());
        let mut node = Node::promoted(saved, at, model.clone(), false);
        node.pod = Some(pod.group.clone());
        node.loading = once_in(2);
        if waits {
            // Replicas go on under the id of the file.
            node.replid = saved.replid;
            node.replid2 = None;
            node.line = saved.line;
            node.cached = true;
        } else {
            with(|sim| sim.truth.begin(node.line, Some(saved.line), at, model));
        }
        node
    }

    /// The server's machine goes on from a snapshot of its memory, and the sidecar is none the wiser.
    fn set_back_to_memory(&mut self, pod: usize) {
        let is_kept = self.is_kept(pod);
        let at = &mut self.pods[pod];
        let (line, offset, is_master) = with(|sim| {
            let node = &sim.nodes[at.node];
            (node.line, node.offset, node.up && node.is_master())
        });
        let snapshot = at.snapshot.take().filter(|it| it.line == line);
        let Some(snapshot) = snapshot.filter(|_| is_master && !is_kept) else {
            return;
        };
        at.node = failures::set_back(at.node, &snapshot);
        at.saved = None;
        let node = at.node;
        with(|sim| sim.decide_for(node, Some((line, offset))));
    }

    /// The pod goes, at once.
    fn delete(&mut self, pod: usize) {
        let pod = self.pods.remove(pod);
        note(|| format!("{} is deleted", pod.group));
        if let Some(sidecar) = pod.sidecar {
            sidecar.process.kill();
        }
        with(|sim| {
            sim.oracle.counts.kills += 1;
            sim.stop_node(pod.node);
            sim.routes.remove(&pod.group);
        });
    }

    /// Who died or ended, and whether that was right. Containers are started again.
    async fn look_after(&mut self) -> Result<(), String> {
        if let Some((process, task)) = self.consolidation.take() {
            if task.is_finished() {
                check_consolidation(task.await.map_err(|error| error.to_string())?)?;
            } else if !process.is_dead() {
                self.consolidation = Some((process, task));
            }
        }
        for pod in 0..self.pods.len() {
            self.look_after_pod(pod).await?;
            if self.pods[pod].sidecar.is_none() && (self.calm || once_in(3)) {
                self.start(pod, WhenBehind::Wait);
            }
            if self.calm || once_in(OPERATOR) {
                self.operate(pod);
            }
        }
        Ok(())
    }

    async fn look_after_pod(&mut self, pod: usize) -> Result<(), String> {
        let pod = &mut self.pods[pod];
        let Some(sidecar) = &pod.sidecar else {
            return Ok(());
        };
        if !pod.told && sidecar.says("is not promoted, because it does not hold") {
            pod.told = true;
            with(|sim| sim.oracle.counts.unproved += 1);
        }
        if sidecar.stopping && once_in(10) {
            // Its time is over.
            sidecar.process.kill();
        }
        if sidecar.process.is_dead() {
            with(|sim| sim.oracle.counts.kills += 1);
            pod.sidecar = None;
        } else if sidecar.task.is_finished()
            && let Some(sidecar) = pod.sidecar.take()
        {
            let name = &sidecar.process.name;
            let end = sidecar.task.await;
            let end = end.map_err(|error| format!("{name}: {error}"))?;
            note(|| format!("{name} ends: {end:?}"));
            match end {
                Ok(()) if sidecar.stopping => {}
                Err(SidecarError::Session(SessionEnd::Superseded { at, .. })) => {
                    pod.superseded += 1;
                    let (sealed, goes_on) = with(|sim| {
                        sim.oracle.counts.superseded += 1;
                        let goes_on = sim.oracle.successors.contains_key(&at.history);
                        (sim.oracle.sealed(at.history), goes_on)
                    });
                    if sealed != Some(at.offset.0) && !goes_on {
                        return Err(format!(
                            "{name} was superseded at {at}, and the seal is at {sealed:?}"
                        ));
                    }
                }
                Err(SidecarError::TakenOver { history, .. }) => {
                    with(|sim| sim.oracle.counts.yielded += 1);
                    if with(|sim| !sim.oracle.successors.contains_key(&history)) {
                        return Err(format!("{name} has yielded, and nobody goes on"));
                    }
                }
                end => return Err(format!("{name} ended with {end:?}")),
            }
        }
        Ok(())
    }

    /// What an operator does: makes room, decides, and replaces a server that was superseded.
    fn operate(&mut self, pod: usize) {
        let sidecar = self.pods[pod].sidecar.as_ref();
        // It may be that another one went on since the last decision.
        let waits = sidecar.is_some_and(|sidecar| sidecar.says("set `when_behind` to capture"));
        let node = self.pods[pod].node;
        if self.calm || once_in(3) {
            with(|sim| sim.nodes[node].loses = None);
        }
        let is_master = with(|sim| sim.nodes[node].up && sim.nodes[node].is_master());
        if waits && is_master {
            with(|sim| sim.oracle.counts.decided += 1);
            if once_in(2) {
                note(|| "the operator flushes it".to_owned());
                with(|sim| sim.flush_all(node));
            } else {
                note(|| "the operator keeps it".to_owned());
                if let Some(sidecar) = self.pods[pod].sidecar.take() {
                    sidecar.process.kill();
                }
                with(|sim| sim.decide_for(node, None));
                self.start(pod, WhenBehind::Capture);
            }
        }
        if self.pods[pod].superseded > 2 {
            self.pods[pod].superseded = 0;
            note(|| "the operator replaces a server that was superseded".to_owned());
            let group = self.pods[pod].group.clone();
            let fresh = self.fresh(&group);
            let new = with(|sim| sim.replace(node, fresh));
            self.pods[pod].node = new;
            self.pods[pod].saved = None;
            self.pods[pod].snapshot = None;
            replica::begin(new);
        }
    }

    /// Nothing goes wrong any more.
    fn calm(&mut self) {
        note(|| "calm".to_owned());
        self.calm = true;
        with(|sim| {
            sim.store_weather = store::Weather::FAIR;
            sim.weather = net::Weather {
                latency: 2,
                piece: 1 << 20,
            };
        });
        for sidecar in self.pods.iter().filter_map(|pod| pod.sidecar.as_ref()) {
            sidecar.process.spare();
        }
    }

    /// One pod goes on: it is open, and what is written to it is confirmed.
    async fn converge(&mut self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            for pod in 0..self.pods.len() {
                let node = self.pods[pod].node;
                let written = with(|sim| {
                    sim.clients(node, 1);
                    let server = &sim.nodes[node];
                    if !server.up || !server.is_master() || server.loading {
                        return None;
                    }
                    let written = server.offset;
                    sim.write_bare(node, &["REPLCONF", "GETACK", "*"]);
                    Some(written)
                });
                sleep(Duration::from_secs(2)).await;
                self.look_after().await?;
                failure()?;
                if node == self.pods[pod].node
                    && written.is_some_and(|written| with(|sim| sim.is_confirmed(node, written)))
                {
                    note(|| format!("{} goes on", self.pods[pod].group));
                    let goes_on = self.pods.swap_remove(pod);
                    while !self.pods.is_empty() {
                        self.delete(0);
                    }
                    self.pods.push(goes_on);
                    return Ok(());
                }
            }
            sleep(Duration::from_secs(1)).await;
            if began.elapsed() > PATIENCE {
                return Err("nobody is open and confirms what is written".to_owned());
            }
        }
    }

    /// All pods are gone, and a new one has everything that was confirmed. (What it has is looked at when it is opened.) Nobody
    /// writes to it before: if it comes up as an empty master, that must not stay as it is.
    async fn replace_all(&mut self) -> Result<(), String> {
        while !self.pods.is_empty() {
            self.delete(0);
        }
        self.boot(!once_in(3));
        let node = self.pods[0].node;
        let began = Instant::now();
        while with(|sim| !sim.nodes[node].is_restored) {
            sleep(Duration::from_millis(100)).await;
            failure()?;
            self.look_after().await?;
            if began.elapsed() > RESTORE_PATIENCE {
                return Err(format!(
                    "a fresh server is not restored after {RESTORE_PATIENCE:?}"
                ));
            }
        }
        note(|| format!("it is restored after {:?}", began.elapsed()));
        self.converge().await
    }
}

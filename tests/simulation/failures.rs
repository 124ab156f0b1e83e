//! What fails: links, the store, servers.

use std::time::Duration;

use tokio::time::sleep;

use super::net::Connection;
use super::redis::Node;
use super::store::Weather;
use super::{Sim, note, with};
use crate::runtime::simulated::{below, once_in, pick};

/// Something happens to a link, or to all.
pub(crate) fn links() {
    with(|sim| {
        if once_in(6) {
            sim.weather.latency = pick(&[0, 5, 100, 2000]);
            return;
        }
        let alive = |connection: &&Connection| !connection.is_over();
        let Some(connection) = sim.connections.iter().rev().find(alive) else {
            return;
        };
        match below(8) {
            0 => {
                note(|| "the last link goes silent".to_owned());
                connection.silence();
            }
            _ => {
                note(|| "the last link is cut".to_owned());
                connection.cut(once_in(2));
            }
        }
    });
}

/// The clock of a machine jumps, or is set right.
pub(crate) fn clock(group: &'static str) {
    const HOUR: i64 = 3_600_000;
    with(|sim| {
        let is_wrong = sim.wrong_clocks.get(group).is_some_and(|wrong| *wrong != 0);
        let by = match is_wrong && once_in(2) {
            true => 0,
            false => pick(&[1, 5, 48, 48, -1, -5, -48]) * HOUR,
        };
        note(|| format!("the clock of {group} is wrong by {by} ms"));
        sim.wrong_clocks.insert(group.to_owned(), by);
        sim.oracle.counts.jumps += 1;
    });
}

/// The weather of the store changes.
pub(crate) fn store() {
    let weather = match below(5) {
        0 | 1 => Weather::FAIR,
        2 => Weather {
            latency: pick(&[2, 50, 1000, 8000]),
            fails: pick(&[2, 5, u64::MAX]),
            loses_answer: pick(&[3, 10, u64::MAX]),
            late: pick(&[4, 10, u64::MAX]),
            refuses: u64::MAX,
            breaks_off: pick(&[5, u64::MAX]),
        },
        3 => Weather {
            latency: pick(&[2, 3000]),
            ..Weather::FAIR
        },
        _ => Weather {
            fails: pick(&[1, 3]),
            refuses: pick(&[4, u64::MAX, u64::MAX]),
            ..Weather::FAIR
        },
    };
    note(|| format!("the store: {weather:?}"));
    with(|sim| sim.store_weather = weather);
}

impl Sim {
    /// Another server stands behind the name; the old one is gone.
    pub(crate) fn replace(&mut self, old: usize, new: Node) -> usize {
        self.stop_node(old);
        self.nodes.push(new);
        let new = self.nodes.len() - 1;
        for route in self.routes.values_mut().filter(|route| **route == old) {
            *route = new;
        }
        new
    }
}

/// A replica that is `behind` so many bytes is promoted; or the master restarts from what it saved then.
pub(crate) fn fail_over(old: usize, behind: u64) -> usize {
    with(|sim| {
        let node = &sim.nodes[old];
        let (id, end) = (node.replid, node.offset);
        let shared = node.replid2.map_or(0, |(_, shared)| shared);
        let upto = end.saturating_sub(behind).max(shared);
        let line = node.line;
        let at = sim.truth.boundary(line, upto).unwrap().max(shared);
        let model = sim.truth.state(line, at).unwrap().clone();
        let new = Node::promoted(node, at, model.clone(), once_in(3));
        note(|| format!("{id} at {end} is followed by {} at {at}", new.replid));
        sim.truth.begin(new.replid, Some(line), at, model);
        sim.replace(old, new)
    })
}

/// The master crashes, and restarts from the RDB file that it had written when it was `saved`.
pub(crate) fn crash(old: usize, saved: &Node) -> usize {
    with(|sim| {
        let (at, model) = (saved.offset, saved.model.clone());
        let new = Node::promoted(saved, at, model.clone(), false);
        note(|| {
            format!(
                "the master crashes, and loads {} at {at}, as {}",
                saved.replid, new.replid
            )
        });
        sim.truth.begin(new.replid, Some(saved.line), at, model);
        sim.oracle.counts.crashes += 1;
        sim.replace(old, new)
    })
}

/// The machine of the master is set back to a snapshot of its memory.
pub(crate) fn set_back(old: usize, snapshot: &Node) -> usize {
    with(|sim| {
        let new = snapshot.clone().set_back();
        note(|| {
            format!(
                "{} is set back from {} to {}",
                new.replid, sim.nodes[old].offset, new.offset
            )
        });
        sim.truth
            .begin(new.line, Some(snapshot.line), new.offset, new.model.clone());
        sim.oracle.counts.set_back += 1;
        sim.replace(old, new)
    })
}

/// The master restarts with nothing.
pub(crate) fn lose_everything(old: usize) -> usize {
    with(|sim| {
        let node = Node::fresh(sim.nodes[old].version, 30_000);
        note(|| format!("the master restarts empty, as {}", node.replid));
        sim.truth.begin(node.replid, None, 0, node.model.clone());
        sim.replace(old, node)
    })
}

/// `SHUTDOWN`: the master waits for its replicas, saves, and comes back from that.
pub(crate) async fn shut_down(old: usize) -> usize {
    let end = with(|sim| {
        sim.write_bare(old, &["REPLCONF", "GETACK", "*"]);
        let node = &mut sim.nodes[old];
        node.shutting_down = true;
        note(|| format!("{} shuts down at {}", node.replid, node.offset));
        node.offset
    });
    for _ in 0..100 {
        sleep(Duration::from_millis(100)).await;
        let key = with(|sim| sim.key_of(&sim.nodes[old]));
        if with(|sim| key.and_then(|key| sim.oracle.acknowledged.get(&key)) >= Some(&end)) {
            note(|| "nothing is lost by the shutdown".to_owned());
            with(|sim| sim.oracle.counts.shutdowns += 1);
            break;
        }
    }
    fail_over(old, 0)
}

/// What masters send every ten seconds.
pub(crate) async fn ping() {
    loop {
        sleep(Duration::from_secs(10)).await;
        with(|sim| {
            for node in 0..sim.nodes.len() {
                let server = &sim.nodes[node];
                if server.up && server.is_master() && !server.shutting_down {
                    sim.write_bare(node, &["PING"]);
                }
            }
        });
    }
}

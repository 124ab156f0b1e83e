//! A real cluster: nodes, slots, failovers, and a client that knows where a key belongs.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use redis::{Connection, FromRedisValue, RedisResult};

use super::backfeed::PATIENCE;
use super::server::{Server, Version, wait_until};

pub const SLOTS: u16 = 16_384;

/// Nodes of one cluster. Their indices never change.
pub struct Cluster {
    pub nodes: Vec<Server>,
    version: Version,
    /// Connections of clients, by the port of the node.
    connections: RefCell<BTreeMap<u16, Connection>>,
}

fn node(version: Version) -> Server {
    Server::builder(version)
        .arg("cluster-enabled", "yes")
        .arg("cluster-node-timeout", 1000)
        .arg("cluster-migration-barrier", 10)
        .arg("cluster-require-full-coverage", "no")
        .arg("repl-backlog-size", "16mb")
        .start()
}

fn meet(node: &Server, other: &Server) {
    let port = other.port().to_string();
    node.cmd(&["CLUSTER", "MEET", "127.0.0.1", &port]);
}

fn is_ok(node: &Server) -> bool {
    node.text(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
}

impl Cluster {
    /// Three masters with all slots, nodes 0 to 2, and a replica of each, nodes 3 to 5.
    pub fn start(version: Version) -> Self {
        let cluster = Self::masters(version, &[(0, 5460), (5461, 10_922), (10_923, 16_383)], 3);
        for (replica, master) in [(3, 0), (4, 1), (5, 2)] {
            cluster.replicate(replica, master);
        }
        for node in &cluster.nodes {
            wait_until("all know the replicas", PATIENCE, || {
                node.text(&["CLUSTER", "NODES"]).matches("slave").count() == 3
            });
        }
        for (replica, _) in [(3, 0), (4, 1), (5, 2)] {
            wait_until("a replica follows its master", PATIENCE, || {
                cluster.nodes[replica].info("replication")["master_link_status"] == "up"
            });
        }
        cluster
    }

    /// A master for each range of slots, and `more` nodes without slots.
    pub fn masters(version: Version, ranges: &[(u16, u16)], more: usize) -> Self {
        let nodes: Vec<Server> = (0..ranges.len() + more).map(|_| node(version)).collect();
        let cluster = Self {
            nodes,
            version,
            connections: RefCell::default(),
        };
        for (index, node) in cluster.nodes.iter().enumerate() {
            node.cmd(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for (node, (first, last)) in cluster.nodes.iter().zip(ranges) {
            let slots: Vec<String> = (*first..=*last).map(|slot| slot.to_string()).collect();
            let command = ["CLUSTER", "ADDSLOTS"].map(str::to_owned);
            let command: Vec<String> = command.into_iter().chain(slots).collect();
            node.cmd(&command.iter().map(String::as_str).collect::<Vec<_>>());
        }
        for node in cluster.nodes.iter().skip(1) {
            meet(node, &cluster.nodes[0]);
        }
        let ids: Vec<String> = (0..cluster.nodes.len())
            .map(|node| cluster.id(node))
            .collect();
        for node in &cluster.nodes {
            wait_until("all nodes know each other", PATIENCE, || {
                let known = node.text(&["CLUSTER", "NODES"]);
                is_ok(node) && ids.iter().all(|id| known.contains(id.as_str()))
            });
        }
        cluster
    }

    /// A master without slots joins. Its index.
    pub fn join(&mut self) -> usize {
        let new = node(self.version);
        let by = self.alive();
        meet(&new, &self.nodes[by]);
        let id = new.text(&["CLUSTER", "MYID"]);
        self.nodes.push(new);
        for node in &mut self.nodes {
            if node.is_running() {
                wait_until("all nodes know the new one", PATIENCE, || {
                    is_ok(node) && node.text(&["CLUSTER", "NODES"]).contains(&id)
                });
            }
        }
        self.nodes.len() - 1
    }

    pub fn replicate(&self, replica: usize, master: usize) {
        let id = self.id(master);
        let ask = || {
            self.nodes[replica]
                .try_cmd(&["CLUSTER", "REPLICATE", &id])
                .is_ok()
        };
        wait_until("the replica knows its master", PATIENCE, ask);
    }

    pub fn id(&self, node: usize) -> String {
        self.nodes[node].text(&["CLUSTER", "MYID"])
    }

    /// For `redis = …` and `--to`.
    pub fn url(&self) -> String {
        let addrs: Vec<String> = self.nodes.iter().map(Server::addr).collect();
        format!("redis+cluster://{}", addrs.join(","))
    }

    fn alive(&mut self) -> usize {
        let mut running = self.nodes.iter_mut().map(Server::is_running);
        running.position(|is| is).expect("a node that runs")
    }

    /// Kills a master, and waits until its replica is one.
    pub fn fail_over(&mut self, master: usize, replica: usize) {
        self.nodes[master].kill9();
        let new = &self.nodes[replica];
        wait_until("the replica is promoted", PATIENCE, || {
            new.info("replication")["role"] == "master"
                && new.text(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        });
    }

    /// The masters with slots: index, and ranges.
    pub fn owners(&mut self) -> Vec<(usize, Vec<(u16, u16)>)> {
        let by = self.alive();
        let text = self.nodes[by].text(&["CLUSTER", "NODES"]);
        let mut owners = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let port: u16 = words[1].split(['@', ':']).nth(1).unwrap().parse().unwrap();
            let ranges: Vec<(u16, u16)> = words[8..]
                .iter()
                .filter(|word| !word.starts_with('['))
                .map(|word| {
                    let (first, last) = word.split_once('-').unwrap_or((word, word));
                    (first.parse().unwrap(), last.parse().unwrap())
                })
                .collect();
            if let Some(index) = self.nodes.iter().position(|node| node.port() == port)
                && !ranges.is_empty()
            {
                owners.push((index, ranges));
            }
        }
        owners
    }

    /// Moves slots with their keys, as `redis-cli --cluster reshard` does.
    pub fn move_slots(&mut self, from: usize, to: usize, first: u16, last: u16) {
        for slot in first..=last {
            self.begin_move(from, to, slot);
            self.move_keys(from, to, slot, usize::MAX);
            self.end_move(to, slot);
        }
    }

    pub fn begin_move(&self, from: usize, to: usize, slot: u16) {
        let (slot, source, target) = (slot.to_string(), self.id(from), self.id(to));
        self.nodes[to].cmd(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
        self.nodes[from].cmd(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
    }

    /// Moves so many keys at most.
    pub fn move_keys(&self, from: usize, to: usize, slot: u16, most: usize) {
        let port = self.nodes[to].port().to_string();
        let count = most.min(100_000).to_string();
        let keys = self.nodes[from].cmd(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &count]);
        let keys: Vec<String> = redis::from_redis_value(keys).unwrap();
        for key in keys {
            self.nodes[from].cmd(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
        }
    }

    pub fn end_move(&mut self, to: usize, slot: u16) {
        let (slot, target) = (slot.to_string(), self.id(to));
        self.nodes[to].cmd(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if index != to && node.is_running() {
                // A replica does not take it, and hears of it. A master that has no slots any more may be one by now.
                let _ = node.try_cmd(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
            }
        }
    }

    /// Takes a node out of the cluster.
    pub fn forget(&mut self, gone: usize) {
        let id = self.id(gone);
        self.nodes[gone].kill9();
        for node in &mut self.nodes {
            if node.is_running() {
                let _ = node.try_cmd(&["CLUSTER", "FORGET", &id]);
            }
        }
    }

    /// Runs something on the master that has the key.
    pub fn with<T: FromRedisValue>(
        &self,
        key: &str,
        run: impl Fn(&mut Connection) -> RedisResult<T>,
    ) -> T {
        let first = self.nodes.iter().map(Server::port);
        let cached: Vec<u16> = self.connections.borrow().keys().copied().collect();
        let mut ports: Vec<u16> = cached.into_iter().chain(first).collect();
        let mut last = None;
        while let Some(port) = ports.first().copied() {
            ports.remove(0);
            let mut connections = self.connections.borrow_mut();
            let connection = match connections.entry(port) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let node = self.nodes.iter().find(|node| node.port() == port).unwrap();
                    match node.try_connect() {
                        Ok(connection) => new.insert(connection),
                        Err(_) => continue,
                    }
                }
            };
            match run(connection) {
                Ok(value) => return value,
                Err(error) => {
                    if let Some((addr, _)) = error.redirect_node() {
                        let port = addr.rsplit_once(':').unwrap().1.parse().unwrap();
                        ports.insert(0, port);
                    } else {
                        connections.remove(&port);
                    }
                    last = Some(error);
                }
            }
        }
        panic!("no node takes {key}: {last:?}");
    }

    pub fn set(&self, key: &str, value: &str) {
        self.with(key, |connection| {
            redis::cmd("SET")
                .arg(key)
                .arg(value)
                .query::<()>(connection)
        });
    }

    /// `MULTI` over keys of one slot.
    pub fn set_all(&self, pairs: &[(&str, &str)]) {
        self.with(pairs[0].0, |connection| {
            let mut pipe = redis::pipe();
            pipe.atomic();
            for (key, value) in pairs {
                pipe.cmd("SET").arg(key).arg(value).ignore();
            }
            pipe.query::<()>(connection)
        });
    }

    /// The digest of each key, by the master that has it.
    pub fn digests(&mut self) -> BTreeMap<String, String> {
        let owners: Vec<usize> = self.owners().into_iter().map(|(index, _)| index).collect();
        let mut digests = BTreeMap::new();
        for index in owners {
            for (key, digest) in digests_of(&self.nodes[index]) {
                let twice = digests.insert(key.clone(), digest);
                assert!(twice.is_none(), "{key} is on two nodes");
            }
        }
        digests
    }
}

/// The digest of each key of database 0.
pub fn digests_of(server: &Server) -> BTreeMap<String, String> {
    let mut connection = server.connect();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    let mut digests = BTreeMap::new();
    for keys in keys.chunks(500) {
        let mut command = redis::cmd("DEBUG");
        command.arg("DIGEST-VALUE").arg(keys);
        let found: Vec<String> = command.query(&mut connection).unwrap();
        digests.extend(keys.iter().cloned().zip(found));
    }
    digests
}

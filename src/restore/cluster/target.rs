//! A running cluster, or one server, that receives keys: each goes to the master of its slot, in pipelines.
//!
//! While keys are written, slots may move and masters may fail: `MOVED` and `ASK` are followed, and what was not answered is
//! sent again. That changes nothing, because a key is written with `REPLACE`, or only if there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use redis_protocol::resp2::types::OwnedFrame;
use tokio::time::{Instant, sleep};

use crate::config::{Cluster, Source};
use crate::display::Shown;
use crate::link::LinkError;
use crate::link::cluster::{Asker, View};
use crate::link::control::{Control, ControlError};
use crate::link::replication_info::{Facts, Role};
use crate::model::slot_of;
use crate::recovery::Plan;
use crate::restore::error::{Remedy, RestoreError};
use crate::restore::keys::Key;
use crate::restore::server::compatibility::{Loads, Server};
use crate::wire::SLOTS;
use crate::wire::resp::encode_command;

/// Keys that are sent before their replies are read: so many, and so many bytes.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 4 << 20;
/// A batch of long values takes a server this long at most.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// For so long a batch is tried again while the cluster does not take it.
const PATIENCE: Duration = Duration::from_secs(60);
/// A key is sent from one node to another so often without a pause.
const ROUNDS_AT_ONCE: u32 = 5;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes of a name in a message.
const NAME_BYTES: usize = 60;

/// What becomes of a key of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OverKey {
    /// It is replaced.
    Replace,
    /// It stays, and the new one is not written.
    Leave,
}

/// Where keys go.
pub(super) struct Keyspace {
    nodes: Nodes,
    /// How it is called in messages.
    name: String,
    connections: BTreeMap<String, Connection>,
    batch: Vec<Pending>,
    batch_bytes: usize,
    written: u64,
}

/// Who takes a key.
enum Nodes {
    Server(Source),
    Cluster {
        asker: Box<Asker>,
        cluster: Cluster,
        view: View,
        /// `host:port` of the masters of slots that `MOVED` has named since.
        moved: BTreeMap<u16, String>,
    },
}

struct Connection {
    control: Control,
    db: u32,
}

/// A key that is not written yet.
struct Pending {
    slot: u16,
    db: u32,
    name: Vec<u8>,
    command: Vec<u8>,
    over: OverKey,
    /// `host:port` of the node to be asked for it once.
    ask: Option<String>,
}

impl Keyspace {
    /// Connects, and refuses what would go wrong: a replica, a server that cannot read the values, and data unless it may
    /// be written over.
    pub(super) async fn of_server(source: &Source) -> Result<Self, RestoreError> {
        let facts = Control::connect(source).await?.facts().await?;
        if facts.cluster {
            return Err(RestoreError::Refused {
                addr: source.addr(),
                reason: format!(
                    "is in cluster mode: write redis+cluster://{}, so that its other nodes are found",
                    source.addr()
                ),
                remedy: None,
            });
        }
        Ok(Self::of(Nodes::Server(source.clone()), source.addr()))
    }

    /// The same of a cluster.
    pub(super) async fn of_cluster(cluster: &Cluster) -> Result<Self, RestoreError> {
        let name = cluster.to_string();
        let mut asker = Box::new(Asker::new(cluster.clone()));
        let view = asker.look().await.map_err(|error| RestoreError::Refused {
            addr: name.clone(),
            reason: format!("does not say who is in it: {error}"),
            remedy: None,
        })?;
        if view.assigned() < u32::from(SLOTS) {
            let assigned = view.assigned();
            return Err(RestoreError::Refused {
                addr: name,
                reason: format!(
                    "has a master for {assigned} of {SLOTS} slots only. Give it the others (CLUSTER ADDSLOTS)"
                ),
                remedy: None,
            });
        }
        let cluster = cluster.clone();
        let nodes = Nodes::Cluster {
            asker,
            cluster,
            view,
            moved: BTreeMap::new(),
        };
        Ok(Self::of(nodes, name))
    }

    fn of(nodes: Nodes, name: String) -> Self {
        Self {
            nodes,
            name,
            connections: BTreeMap::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            written: 0,
        }
    }

    /// All that take writes.
    fn masters(&self) -> Vec<Source> {
        match &self.nodes {
            Nodes::Server(source) => vec![source.clone()],
            Nodes::Cluster { asker, view, .. } => {
                let with_slots = view.shards.iter().filter(|shard| !shard.slots.is_empty());
                let masters = with_slots.filter_map(|shard| asker.source(&shard.master));
                masters.collect()
            }
        }
    }

    /// Looks at each master before anything is written. Gives the keys that are there.
    ///
    /// # Errors
    /// [`RestoreError::Refused`].
    pub(super) async fn check(&self, plans: &[&Plan], force: bool) -> Result<u64, RestoreError> {
        let mut keys = 0u64;
        for master in self.masters() {
            let facts = Control::connect(&master).await?.facts().await?;
            let refused = |reason: String, remedy| RestoreError::Refused {
                addr: master.addr(),
                reason,
                remedy,
            };
            if facts.loading {
                let reason = "is still loading its own data. Wait until it is ready";
                return Err(refused(reason.to_owned(), None));
            }
            if let Role::Replica { host, port, .. } = &facts.role {
                let reason = format!("is a replica of {host}:{port}, and takes no writes");
                return Err(refused(reason, None));
            }
            for plan in plans {
                check_loads(plan, &facts).map_err(|reason| refused(reason, None))?;
            }
            if facts.total_keys() > 0 && !force {
                let reason = format!(
                    "has {} keys. Restore to an empty target. Or have keys of the same names replaced, while all others stay",
                    facts.total_keys()
                );
                return Err(refused(reason, Some(Remedy::Force)));
            }
            keys = keys.saturating_add(facts.total_keys());
        }
        Ok(keys)
    }

    /// Loads functions into all masters, in place of those of the same names.
    pub(super) async fn load_functions(&mut self, dump: &[u8]) -> Result<(), RestoreError> {
        for master in self.masters() {
            let mut control = Control::connect(&master).await?;
            let restored = control
                .call_bytes(&[b"FUNCTION", b"RESTORE", dump, b"REPLACE"])
                .await;
            restored.map_err(|source| self.left("functions".to_owned(), source))?;
        }
        Ok(())
    }

    fn left(&self, what: String, source: ControlError) -> RestoreError {
        RestoreError::ClusterLeft {
            addr: self.name.clone(),
            written: self.written,
            what,
            source: Box::new(source),
        }
    }

    /// Takes a key. It is written with those that come after it: see [`Self::flush`].
    pub(super) async fn write(
        &mut self,
        key: &Key,
        version: u16,
        over: OverKey,
    ) -> Result<(), RestoreError> {
        let (payload, ttl) = (key.dump(version), key.ttl());
        let mut args: Vec<&[u8]> = vec![b"RESTORE", &key.name, &ttl, &payload, b"ABSTTL"];
        if over == OverKey::Replace {
            args.push(b"REPLACE");
        }
        let mut command = Vec::new();
        encode_command(&args, &mut command);
        self.batch_bytes = self.batch_bytes.saturating_add(command.len());
        self.batch.push(Pending {
            slot: slot_of(&key.name),
            db: key.db,
            name: key.name.clone(),
            command,
            over,
            ask: None,
        });
        if self.batch.len() >= BATCH || self.batch_bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes all that was taken.
    ///
    /// # Errors
    /// [`RestoreError::ClusterLeft`]: some are written.
    pub(super) async fn flush(&mut self) -> Result<(), RestoreError> {
        let begun = Instant::now();
        let mut left = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let mut rounds = 0u32;
        loop {
            let (still, again) = self.send(left).await?;
            if still.is_empty() {
                return Ok(());
            }
            if begun.elapsed() >= PATIENCE {
                let name = still
                    .first()
                    .map(|pending| Shown::cut(&pending.name, NAME_BYTES));
                let what = name.map(|name| name.to_string()).unwrap_or_default();
                return Err(self.left(what, again.unwrap_or_else(|| self.silent())));
            }
            rounds = rounds.saturating_add(1);
            if again.is_some() || rounds >= ROUNDS_AT_ONCE {
                sleep(PAUSE).await;
                self.look_again().await;
            }
            left = still;
        }
    }

    fn silent(&self) -> ControlError {
        LinkError::Connect {
            addr: self.name.clone(),
            cause: format!(
                "it sent a key from one node to another for {} s",
                PATIENCE.as_secs()
            ),
        }
        .into()
    }

    /// The nodes may be others by now.
    async fn look_again(&mut self) {
        if let Nodes::Cluster {
            asker, view, moved, ..
        } = &mut self.nodes
            && let Ok(found) = asker.look().await
        {
            *view = found;
            moved.clear();
        }
    }

    /// The node that takes this key.
    fn node_of(&self, pending: &Pending) -> Option<Source> {
        match &self.nodes {
            Nodes::Server(source) => Some(source.clone()),
            Nodes::Cluster {
                asker,
                cluster,
                view,
                moved,
            } => {
                let named = pending.ask.as_ref().or_else(|| moved.get(&pending.slot));
                if let Some(addr) = named {
                    let (host, port) = addr.rsplit_once(':')?;
                    return cluster.node(host.to_owned(), port.parse().ok()?);
                }
                let has = |(first, last): &(u16, u16)| (*first..=*last).contains(&pending.slot);
                let shard = view
                    .shards
                    .iter()
                    .find(|shard| shard.slots.iter().any(has))?;
                asker.source(&shard.master)
            }
        }
    }

    /// Sends keys to their nodes, and gives those that have to be sent again. If a pause may help, gives the reason too.
    async fn send(
        &mut self,
        pending: Vec<Pending>,
    ) -> Result<(Vec<Pending>, Option<ControlError>), RestoreError> {
        let mut by_node: BTreeMap<String, (Source, Vec<Pending>)> = BTreeMap::new();
        let (mut still, mut again) = (Vec::new(), None);
        for key in pending {
            let Some(node) = self.node_of(&key) else {
                again = Some(self.silent());
                still.push(key);
                continue;
            };
            let of = by_node
                .entry(node.addr())
                .or_insert_with(|| (node, Vec::new()));
            of.1.push(key);
        }
        let sent = by_node.into_iter().map(|(addr, (node, keys))| {
            let connection = self.connections.remove(&addr);
            async move {
                let sent = send_to(connection, &node, &keys).await;
                (addr, keys, sent)
            }
        });
        for (addr, keys, sent) in join_all(sent).await {
            let (connection, replies) = match sent {
                Ok(sent) => sent,
                Err(error) if error.is_permanent() || is_answer(&error) => {
                    return Err(self.left(format!("the writing to {addr}"), error));
                }
                Err(error) => {
                    again = Some(error);
                    still.extend(keys.into_iter().map(|key| Pending { ask: None, ..key }));
                    continue;
                }
            };
            self.connections.insert(addr.clone(), connection);
            for (mut key, reply) in keys.into_iter().zip(replies) {
                key.ask = None;
                let Err(text) = reply else {
                    self.written = self.written.saturating_add(1);
                    continue;
                };
                let error = ControlError::Reply {
                    addr: addr.clone(),
                    command: "RESTORE".to_owned(),
                    text: text.clone(),
                };
                let mut words = text.split_ascii_whitespace();
                match (words.next(), words.next(), words.next()) {
                    (Some("MOVED"), Some(_), Some(to)) => {
                        if let Nodes::Cluster { moved, .. } = &mut self.nodes {
                            moved.insert(key.slot, whole_addr(to, &addr));
                        }
                    }
                    (Some("ASK"), Some(_), Some(to)) => key.ask = Some(whole_addr(to, &addr)),
                    (
                        Some(
                            "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY"
                            | "BUSY" | "NOREPLICAS",
                        ),
                        ..,
                    ) => again = Some(error),
                    (Some("BUSYKEY"), ..) if key.over == OverKey::Leave => continue,
                    _ => {
                        let name = Shown::cut(&key.name, NAME_BYTES);
                        return Err(self.left(format!("{name} (database {})", key.db), error));
                    }
                }
                still.push(key);
            }
        }
        Ok((still, again))
    }

    /// How many keys were answered with OK.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Keys by slot in a cluster, in these databases: of each slot with its master, or of these slots with all masters. None: it
    /// is one server.
    ///
    /// # Errors
    /// [`RestoreError::Control`].
    pub(super) async fn keys_by_slot(
        &mut self,
        databases: &BTreeSet<u32>,
        of_all: Option<&[u16]>,
    ) -> Result<Option<BTreeMap<u16, u64>>, RestoreError> {
        self.look_again().await;
        let Nodes::Cluster { asker, view, .. } = &self.nodes else {
            return Ok(None);
        };
        let mut found: BTreeMap<u16, u64> = BTreeMap::new();
        for shard in view.shards.iter().filter(|shard| !shard.slots.is_empty()) {
            let Some(master) = asker.source(&shard.master) else {
                continue;
            };
            let own = shard.slots.iter().flat_map(|(first, last)| *first..=*last);
            let slots = of_all.map_or_else(|| own.collect(), <[u16]>::to_vec);
            for (slot, keys) in count(&master, &slots, databases).await? {
                let sum = found.entry(slot).or_default();
                *sum = sum.saturating_add(keys);
            }
        }
        Ok(Some(found))
    }

    /// Keys of all databases of all masters.
    ///
    /// # Errors
    /// [`RestoreError::Control`].
    pub(super) async fn total_keys(&self) -> Result<u64, RestoreError> {
        let mut keys = 0u64;
        for master in self.masters() {
            let facts = Control::connect(&master).await?.facts().await?;
            keys = keys.saturating_add(facts.total_keys());
        }
        Ok(keys)
    }
}

/// Keys of these slots on one master.
async fn count(
    master: &Source,
    slots: &[u16],
    databases: &BTreeSet<u32>,
) -> Result<Vec<(u16, u64)>, ControlError> {
    let mut control = Control::connect(master).await?;
    let mut found = Vec::new();
    for db in databases {
        if *db != 0 {
            control.call(&["SELECT", &db.to_string()]).await?;
        }
        for slots in slots.chunks(BATCH) {
            let mut commands = Vec::new();
            for slot in slots {
                let slot = slot.to_string();
                let command: [&[u8]; 3] = [b"CLUSTER", b"COUNTKEYSINSLOT", slot.as_bytes()];
                encode_command(&command, &mut commands);
            }
            let replies = control
                .pipeline(&commands, slots.len(), BATCH_TIMEOUT)
                .await?;
            for (slot, reply) in slots.iter().zip(replies) {
                let keys = reply.map_err(|text| ControlError::Reply {
                    addr: master.addr(),
                    command: "CLUSTER COUNTKEYSINSLOT".to_owned(),
                    text,
                })?;
                let OwnedFrame::Integer(keys) = keys else {
                    continue;
                };
                found.push((*slot, u64::try_from(keys).unwrap_or(0)));
            }
        }
    }
    Ok(found)
}

/// It was answered with an error: a database that is not there stays so.
fn is_answer(error: &ControlError) -> bool {
    matches!(error, ControlError::Reply { .. })
}

/// `host:port` as `MOVED` says it. A node that does not know its host leaves it out: it is that of the node that says so.
fn whole_addr(named: &str, by: &str) -> String {
    match named.strip_prefix(':') {
        Some(port) => {
            let host = by.rsplit_once(':').map_or(by, |(host, _)| host);
            format!("{host}:{port}")
        }
        None => named.to_owned(),
    }
}

type Replies = Vec<Result<OwnedFrame, String>>;

/// Sends keys to one node. One reply for each.
async fn send_to(
    connection: Option<Connection>,
    node: &Source,
    keys: &[Pending],
) -> Result<(Connection, Replies), ControlError> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => Connection {
            control: Control::connect(node).await?,
            db: 0,
        },
    };
    let mut of_keys = Vec::with_capacity(keys.len());
    for run in keys.chunk_by(|one, other| one.db == other.db) {
        let db = run.first().map_or(0, |key| key.db);
        if connection.db != db {
            // Not in the pipeline: if it is refused, the keys would go to another database.
            connection
                .control
                .call(&["SELECT", &db.to_string()])
                .await?;
            connection.db = db;
        }
        let mut bytes = Vec::new();
        // For each command that is sent: is it a key?
        let mut kinds = Vec::new();
        for key in run {
            if key.ask.is_some() {
                encode_command(&[b"ASKING"], &mut bytes);
                kinds.push(false);
            }
            bytes.extend_from_slice(&key.command);
            kinds.push(true);
        }
        let control = &mut connection.control;
        let replies = control.pipeline(&bytes, kinds.len(), BATCH_TIMEOUT).await?;
        let replies = replies.into_iter().zip(kinds);
        of_keys.extend(
            replies
                .filter(|(_, is_key)| *is_key)
                .map(|(reply, _)| reply),
        );
    }
    Ok((connection, of_keys))
}

fn check_loads(plan: &Plan, facts: &Facts) -> Result<(), String> {
    let base = &plan.base;
    let writer = Server::named(&base.server.flavour, &base.server.version);
    let server = Server::named(&facts.flavour, &facts.version);
    let loads = server.map(|server| server.loads(&base.rdb_magic, writer));
    match (loads, server) {
        (Some(Loads::No), Some(server)) => Err(format!(
            "is {server}, whose RESTORE does not take values of the format {}: restore to servers of the version that was \
             backed up, or newer",
            base.rdb_magic
        )),
        // RESTORE itself looks at the version, and refuses the first key.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_host_is_on_that_of_the_node_that_names_it() {
        assert_eq!(whole_addr("10.0.0.1:7000", "h:1"), "10.0.0.1:7000");
        assert_eq!(whole_addr(":7000", "h:1"), "h:7000");
    }
}

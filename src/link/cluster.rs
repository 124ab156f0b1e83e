//! Asks the nodes of a cluster who is in it: its shards, their nodes, and which slots each has.
//!
//! `CLUSTER NODES` says who is in a shard, and `CLUSTER SLOTS` how clients reach a node. All versions have both. A node
//! that is cut off from most masters knows nothing of a failover, so its answer does not count.

use std::collections::BTreeMap;
use std::time::Duration;

use redis_protocol::resp2::types::OwnedFrame;
use tokio::time::timeout;

use super::control::{Control, ControlError};
use crate::config::{Cluster, Source};
use crate::wire::SLOTS;

/// A node answers from memory: one that takes longer is away.
const NODE_TIMEOUT: Duration = Duration::from_secs(3);
/// Nodes that are remembered at most: a cluster has 1000 at most.
const NODES_LIMIT: usize = 1024;
/// Nodes that a message names.
const NAMED: usize = 5;

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id: 40 hexadecimal digits, for as long as it lives.
    pub id: String,
    /// How clients reach it. Empty: nobody knows.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The cluster, or the node that was asked, takes it for dead.
    pub fails: bool,
}

impl Node {
    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn addr(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// A master, its replicas, and its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardView {
    /// The master.
    pub master: Node,
    /// Its replicas, by their ids.
    pub replicas: Vec<Node>,
    /// First and last slot of each range, in ascending order.
    pub slots: Vec<(u16, u16)>,
}

impl ShardView {
    /// The master and its replicas.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(&self.master).chain(&self.replicas)
    }
}

/// What a node says of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// By the ids of their masters.
    pub shards: Vec<ShardView>,
    /// The highest configuration epoch of a master: that of the last failover, or of the last slot that moved.
    pub epoch: u64,
    /// host:port of the node that said it.
    pub by: String,
}

impl View {
    /// Slots that have a master.
    #[must_use]
    pub fn assigned(&self) -> u32 {
        let ranges = self.shards.iter().flat_map(|shard| &shard.slots);
        ranges.fold(0, |sum: u32, (first, last)| {
            sum.saturating_add(u32::from(last.saturating_sub(*first)).saturating_add(1))
        })
    }
}

/// Why an answer does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is no cluster yet.
    #[error(
        "no slot has a master there: the node is in no cluster, or the cluster has not been created yet"
    )]
    NoSlots,
    /// The node is cut off.
    #[error("it cannot reach {failing} of {masters} masters, so it may not know of a failover")]
    Minority {
        /// Masters with slots that it takes for dead.
        failing: usize,
        /// Masters with slots.
        masters: usize,
    },
    /// It is no answer.
    #[error("its answer to CLUSTER NODES cannot be read")]
    Unread,
}

/// No node gave an answer that counts.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no node of the cluster says who is in it: {}", .causes.join("; "))]
pub struct ClusterError {
    /// What is wrong with each, as many as are worth telling.
    pub causes: Vec<String>,
}

/// Asks the nodes of one cluster, again and again, each time another one.
#[derive(Debug)]
pub struct Asker {
    cluster: Cluster,
    /// Nodes that answers have named.
    known: Vec<(String, u16)>,
    /// Who is next.
    next: usize,
    /// The highest epoch that was seen.
    epoch: u64,
}

impl Asker {
    /// Nobody is asked before [`Self::look`].
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            known: Vec::new(),
            next: 0,
            epoch: 0,
        }
    }

    /// How a node of the cluster is reached.
    #[must_use]
    pub fn source(&self, node: &Node) -> Option<Source> {
        let is_known = !node.host.is_empty() && node.port != 0;
        self.cluster
            .node(node.host.clone(), node.port)
            .filter(|_| is_known)
    }

    /// What the cluster is now. An answer that is older than what was seen counts only if no node knows better.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn look(&mut self) -> Result<View, ClusterError> {
        let nodes = self.candidates();
        let count = nodes.len().max(1);
        let begin = self.next.checked_rem(count).unwrap_or(0);
        self.next = begin.saturating_add(1);
        let (mut best, mut causes): (Option<View>, Vec<String>) = (None, Vec::new());
        for node in nodes.iter().cycle().skip(begin).take(count) {
            match ask(node).await {
                Ok(view) if view.epoch >= self.epoch => return Ok(self.seen(view)),
                Ok(view) => {
                    if best.as_ref().is_none_or(|best| best.epoch < view.epoch) {
                        best = Some(view);
                    }
                }
                Err(cause) if causes.len() < NAMED => causes.push(cause),
                Err(_) => {}
            }
        }
        match best {
            // The cluster was made anew.
            Some(view) => Ok(self.seen(view)),
            None => {
                causes.sort();
                Err(ClusterError { causes })
            }
        }
    }

    fn seen(&mut self, view: View) -> View {
        self.epoch = view.epoch;
        let nodes = view.shards.iter().flat_map(ShardView::nodes);
        let known = nodes.filter(|node| !node.host.is_empty() && !node.fails);
        self.known = known
            .map(|node| (node.host.clone(), node.port))
            .take(NODES_LIMIT)
            .collect();
        view
    }

    /// The nodes of the URL, and those that were named since.
    fn candidates(&self) -> Vec<Source> {
        let mut nodes = self.cluster.seeds.clone();
        for (host, port) in &self.known {
            let node = self.cluster.node(host.clone(), *port);
            nodes.extend(node.filter(|node| !nodes.contains(node)));
        }
        nodes
    }
}

/// The id of the shard of this node, which survives failovers. None: the server knows none (before Redis 7.2 and Valkey).
pub async fn shard_id(node: &Source) -> Option<String> {
    let asked = async {
        let mut control = Control::connect(node).await.ok()?;
        control.text(&["CLUSTER", "MYSHARDID"]).await.ok()
    };
    let id = timeout(NODE_TIMEOUT, asked).await.ok()??;
    is_id(&id).then_some(id)
}

async fn ask(node: &Source) -> Result<View, String> {
    let asked = async {
        let mut control = Control::connect(node).await?;
        let nodes = control.text(&["CLUSTER", "NODES"]).await?;
        // It only adds how clients reach a node, and an ACL may refuse it.
        let slots = control.call(&["CLUSTER", "SLOTS"]).await.ok();
        Ok::<_, ControlError>((nodes, slots))
    };
    let answer = timeout(NODE_TIMEOUT, asked).await;
    let (nodes, slots) = answer
        .map_err(|_| {
            format!(
                "{}: no answer within {} s",
                node.addr(),
                NODE_TIMEOUT.as_secs()
            )
        })?
        .map_err(|error| error.to_string())?;
    let view = parse(&nodes, slots.as_ref(), node);
    view.map_err(|error| format!("{}: {error}", node.addr()))
}

/// A line of `CLUSTER NODES`.
struct Line {
    node: Node,
    is_master: bool,
    is_myself: bool,
    master: String,
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

fn parse(nodes: &str, slots: Option<&OwnedFrame>, asked: &Source) -> Result<View, Unusable> {
    let endpoints = slots
        .map(|slots| endpoints(slots, asked))
        .unwrap_or_default();
    let mut lines = Vec::new();
    for line in nodes.lines().filter(|line| !line.trim().is_empty()) {
        lines.extend(parse_line(line, asked, &endpoints)?);
    }
    let with_slots = |line: &&Line| line.is_master && !line.slots.is_empty();
    let masters = lines.iter().filter(with_slots).count();
    let away = |line: &&Line| line.node.fails && !line.is_myself;
    let failing = lines.iter().filter(with_slots).filter(away).count();
    if masters == 0 {
        return Err(Unusable::NoSlots);
    }
    if failing.saturating_mul(2) >= masters && masters > 1 {
        return Err(Unusable::Minority { failing, masters });
    }
    let epoch = lines.iter().filter(with_slots).map(|line| line.epoch).max();
    let (masters, replicas): (Vec<Line>, Vec<Line>) =
        lines.into_iter().partition(|line| line.is_master);
    let mut shards: Vec<ShardView> = masters
        .into_iter()
        .map(|line| ShardView {
            master: line.node,
            replicas: Vec::new(),
            slots: line.slots,
        })
        .collect();
    for replica in replicas {
        let shard = shards
            .iter_mut()
            .find(|shard| shard.master.id == replica.master);
        if let Some(shard) = shard {
            shard.replicas.push(replica.node);
        }
    }
    shards.sort_by(|one, other| one.master.id.cmp(&other.master.id));
    for shard in &mut shards {
        shard.replicas.sort_by(|one, other| one.id.cmp(&other.id));
        shard.slots.sort_unstable();
    }
    Ok(View {
        shards,
        epoch: epoch.unwrap_or(0),
        by: asked.addr(),
    })
}

/// `id host:port@bus[,hostname…] flags master ping pong epoch link slot …`. None: it is no member yet, or no longer.
fn parse_line(
    line: &str,
    asked: &Source,
    endpoints: &BTreeMap<String, (String, u16)>,
) -> Result<Option<Line>, Unusable> {
    let mut words = line.split_ascii_whitespace();
    let mut word = || words.next().ok_or(Unusable::Unread);
    let (id, address, flags, master) = (word()?, word()?, word()?, word()?);
    let (_, _, epoch, _) = (word()?, word()?, word()?, word()?);
    if !is_id(id) {
        return Err(Unusable::Unread);
    }
    let flag = |name: &str| flags.split(',').any(|flag| flag == name);
    if flag("handshake") || flag("noaddr") {
        return Ok(None);
    }
    let is_myself = flag("myself");
    let address = address.split(['@', ',']).next().unwrap_or_default();
    let (host, port) = address.rsplit_once(':').ok_or(Unusable::Unread)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let named = (host.to_owned(), port.parse().unwrap_or(0));
    let (mut host, mut port) = endpoints.get(id).cloned().unwrap_or(named);
    if is_myself && (host.is_empty() || port == 0) {
        (host, port) = (asked.host.clone(), asked.port);
    }
    Ok(Some(Line {
        node: Node {
            id: id.to_owned(),
            host,
            port,
            fails: flag("fail") || flag("fail?"),
        },
        is_master: flag("master"),
        is_myself,
        master: master.to_owned(),
        epoch: epoch.parse().map_err(|_| Unusable::Unread)?,
        slots: words.filter_map(range).collect(),
    }))
}

/// `7` or `0-5460`. What is in brackets is a slot on its way, which its master still has.
fn range(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some((first, last))
}

/// How clients reach the nodes that have slots, by their ids: an address, or a name (`cluster-preferred-endpoint-type`).
fn endpoints(slots: &OwnedFrame, asked: &Source) -> BTreeMap<String, (String, u16)> {
    let mut found = BTreeMap::new();
    for range in items(slots) {
        for node in items(range).iter().skip(2) {
            let [host, OwnedFrame::Integer(port), id, ..] = items(node) else {
                continue;
            };
            let (Some(id), Ok(port)) = (text(id), u16::try_from(*port)) else {
                continue;
            };
            let host = match text(host) {
                // The one by which the node was asked.
                None => asked.host.clone(),
                Some(host) if host.is_empty() => asked.host.clone(),
                // It has a name, and does not know it.
                Some(host) if host == "?" => continue,
                Some(host) => host,
            };
            found.insert(id, (host, port));
        }
    }
    found
}

fn is_id(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn items(frame: &OwnedFrame) -> &[OwnedFrame] {
    match frame {
        OwnedFrame::Array(items) => items,
        _ => &[],
    }
}

fn text(frame: &OwnedFrame) -> Option<String> {
    match frame {
        OwnedFrame::SimpleString(bytes) | OwnedFrame::BulkString(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    fn asked() -> Source {
        "redis://seed:7000".parse().unwrap()
    }

    fn line(of: char, flags: &str, master: &str, epoch: u64, slots: &str) -> String {
        format!(
            "{} 10.0.0.{of}:6379@16379,host-{of} {flags} {master} 0 1 {epoch} connected {slots}\n",
            id(of)
        )
    }

    #[test]
    fn shards_are_read_with_their_nodes_and_slots() {
        let text = line('3', "master", "-", 3, "10923-16383")
            + &line('1', "myself,master", "-", 7, "0-5460 5462 [5462->-4444]")
            + &line('4', "slave", &id('1'), 7, "")
            + &line('2', "master", "-", 2, "5461 5463-10922")
            + &line('5', "slave,fail?", &id('1'), 7, "")
            + &line('6', "handshake", "-", 0, "")
            + &line('7', "master,noaddr", "-", 0, "");
        let view = parse(&text, None, &asked()).unwrap();
        assert_eq!(
            (view.epoch, view.shards.len(), view.assigned()),
            (7, 3, 16_384)
        );
        let first = &view.shards[0];
        assert_eq!(first.slots, [(0, 5460), (5462, 5462)]);
        assert_eq!(
            (first.master.host.as_str(), first.master.port),
            ("10.0.0.1", 6379)
        );
        let replicas: Vec<_> = first
            .replicas
            .iter()
            .map(|node| (&node.id, node.fails))
            .collect();
        assert_eq!(replicas, [(&id('4'), false), (&id('5'), true)]);
    }

    #[test]
    fn clients_reach_a_node_as_cluster_slots_says() {
        let bulk = |text: &str| OwnedFrame::BulkString(text.as_bytes().to_vec());
        let node = |host: OwnedFrame, of: char| {
            OwnedFrame::Array(vec![host, OwnedFrame::Integer(7777), bulk(&id(of))])
        };
        let slots = OwnedFrame::Array(vec![OwnedFrame::Array(vec![
            OwnedFrame::Integer(0),
            OwnedFrame::Integer(16_383),
            node(bulk("redis-1.example"), '1'),
            node(OwnedFrame::Null, '4'),
            node(bulk("?"), '5'),
        ])]);
        let text = line('1', "master", "-", 1, "0-16383")
            + &line('4', "slave", &id('1'), 1, "")
            + &line('5', "slave", &id('1'), 1, "");
        let view = parse(&text, Some(&slots), &asked()).unwrap();
        let nodes: Vec<_> = view.shards[0]
            .nodes()
            .map(|it| (it.host.as_str(), it.port))
            .collect();
        assert_eq!(
            nodes,
            [
                ("redis-1.example", 7777),
                ("seed", 7777),
                ("10.0.0.5", 6379)
            ]
        );
        // A node that was never told its own address.
        let own = format!("{} :0@0 myself,master - 0 1 1 connected 0-16383\n", id('1'));
        let view = parse(&own, None, &asked()).unwrap();
        assert_eq!(
            (
                view.shards[0].master.host.as_str(),
                view.shards[0].master.port
            ),
            ("seed", 7000)
        );
    }

    #[test]
    fn a_node_that_is_cut_off_or_in_no_cluster_does_not_count() {
        let text = line('1', "myself,master", "-", 1, "0-5460")
            + &line('2', "master,fail?", "-", 2, "5461-10922")
            + &line('3', "master,fail?", "-", 3, "10923-16383");
        let error = parse(&text, None, &asked()).unwrap_err();
        assert_eq!(
            error,
            Unusable::Minority {
                failing: 2,
                masters: 3
            }
        );
        // One that the others have promoted a replica for has no slots any more.
        let text = text.replace("master,fail? - 0 1 2", "master - 0 1 2");
        assert_eq!(parse(&text, None, &asked()).unwrap().shards.len(), 3);
        let alone = line('1', "myself,master", "-", 0, "");
        assert_eq!(parse(&alone, None, &asked()), Err(Unusable::NoSlots));
        for text in [
            "x",
            "x y z",
            &line('1', "master", "-", 1, "").replace("11", "1g"),
        ] {
            assert_eq!(parse(text, None, &asked()), Err(Unusable::Unread), "{text}");
        }
        assert_eq!(parse("", None, &asked()), Err(Unusable::NoSlots));
    }
}

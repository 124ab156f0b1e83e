//! Single scenes: what the seeds have found, told once more in a few lines.

use std::time::Duration;

use tokio::time::sleep;

use super::director::{Writer, clock};
use super::pods::Running;
use super::redis::Node;
use super::takeover::Takeover;
use super::{failure, failures, play, replica, restoring, store, with};
use crate::archive::Archive;
use crate::archive::takeover::Claimant;
use crate::config::{CaptureConfig, WhenBehind};
use crate::wire::position::ReplId;

/// A server with a short backlog, for the writers a and b.
fn server() -> ReplId {
    with(|sim| {
        let node = Node::fresh(7, 300);
        let id = node.replid;
        sim.truth.begin(id, None, 0, node.model.clone());
        sim.nodes.push(node);
        for group in ["a", "b"] {
            sim.routes.insert(group.to_owned(), 0);
        }
        id
    })
}

async fn start(group: &'static str, number: u64) -> Writer {
    let writer = Writer::start(group, number, CaptureConfig::default());
    settle().await;
    writer
}

async fn settle() {
    sleep(Duration::from_secs(5)).await;
}

/// Clients write so much that the backlog goes on, in steps that replicas can follow.
async fn write_more() {
    for _ in 0..100 {
        with(|sim| sim.clients(0, 1));
        sleep(Duration::from_millis(10)).await;
    }
    settle().await;
}

fn full_syncs() -> u64 {
    with(|sim| sim.oracle.counts.full_syncs)
}

async fn check() -> Result<(), String> {
    failure()?;
    let objects = with(|sim| sim.objects.clone());
    restoring::check(objects, true).await
}

#[test]
fn a_writer_that_was_left_behind_goes_on_from_what_another_has_stored() {
    let scene = async {
        server();
        let _a = start("a", 1).await;
        let behind = with(|sim| sim.connections.last().cloned().unwrap());
        let _b = start("b", 2).await;
        write_more().await;
        behind.silence();
        write_more().await;
        tokio::spawn(failures::ping());
        sleep(Duration::from_secs(120)).await;
        assert_eq!(full_syncs(), 1);
        // One of them brings the feed of the full sync.
        assert_eq!(with(|sim| sim.oracle.counts.partial_syncs), 3);
        check().await
    };
    play(1, false, scene).unwrap();
}

#[test]
fn a_snapshot_whose_writer_died_before_the_bridge_is_joined_by_the_next() {
    let scene = async {
        let id = server();
        let a = start("a", 1).await;
        write_more().await;
        a.process.kill();
        let end = with(|sim| sim.oracle.end(id)).unwrap();
        write_more().await;
        with(|sim| sim.store_weather.latency = 100);
        let b = Writer::start("b", 2, CaptureConfig::default());
        while with(|sim| sim.oracle.counts.bases) < 2 {
            sleep(Duration::from_millis(1)).await;
        }
        b.process.kill();
        settle().await;
        let bridge = format!("histories/{id}/log/{:020}.resp.zst", end + 1);
        assert!(with(|sim| !sim.objects.contains_key(&bridge)));
        with(|sim| sim.store_weather.latency = 2);
        let _a = start("a", 3).await;
        write_more().await;
        assert!(with(|sim| sim.objects.contains_key(&bridge)));
        assert_eq!(full_syncs(), 2);
        check().await
    };
    play(1, false, scene).unwrap();
}

fn node(at: usize) -> Node {
    with(|sim| sim.nodes[at].clone())
}

/// Is all that a server has in the store?
fn is_stored(at: usize) -> bool {
    let node = node(at);
    let key = with(|sim| sim.key_of(&node));
    key.is_some_and(|key| with(|sim| sim.oracle.holds(key, node.offset)))
}

/// The link to the server before it was set back has brought nothing: what is compared with the next one comes from the store.
#[test]
fn a_server_that_is_set_back_beneath_a_link_that_brought_nothing_is_seen_by_the_next() {
    let scene = async {
        server();
        let a = start("a", 1).await;
        with(|sim| sim.clients(0, 2));
        settle().await;
        let snapshot = node(0);
        with(|sim| sim.clients(0, 3));
        settle().await;
        assert!(is_stored(0));
        a.process.kill();
        let _a = start("a", 2).await;
        let end = node(0).offset;
        failures::set_back(0, &snapshot);
        while node(1).offset <= end + 100 {
            with(|sim| sim.clients(1, 1));
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!(with(|sim| sim.oracle.counts.own_keys), 1);
        assert!(is_stored(1));
        check().await
    };
    play(1, false, scene).unwrap();
}

/// The backlog holds nothing of what is stored: whether the server still has that, it cannot show.
#[test]
fn what_cannot_be_compared_is_not_continued() {
    let scene = async {
        server();
        let a = start("a", 1).await;
        with(|sim| sim.clients(0, 2));
        settle().await;
        assert!(is_stored(0));
        a.process.kill();
        let end = node(0).offset;
        for (first, syncs) in [(end, 1), (end + 1, 2)] {
            with(|sim| sim.nodes[0].backlog_first = first);
            let a = start("a", first).await;
            assert_eq!(full_syncs(), syncs, "{first}");
            a.process.kill();
        }
        check().await
    };
    play(1, false, scene).unwrap();
}

/// It crashes twice, and loads the same RDB both times, of a point that a sidecar claimed to restore another one from.
#[test]
fn a_server_that_loads_an_rdb_of_the_point_that_was_served_is_no_second_one() {
    let scene = async {
        let id = server();
        let _a = start("a", 1).await;
        with(|sim| sim.clients(0, 5));
        settle().await;
        let archive = Archive::open(store::store()).await.unwrap();
        let claimant = Claimant {
            writer: "s.1".to_owned(),
            redis: Some("another run".to_owned()),
            now_unix_ms: 0,
        };
        let stands = Duration::from_secs(6);
        archive.claim(id, 1, &claimant, stands).await.unwrap();
        let saved = node(0);
        for crashed in 0..2 {
            failures::crash(crashed, &saved);
            settle().await;
            with(|sim| sim.clients(crashed + 1, 5));
            sleep(Duration::from_secs(60)).await;
            assert!(is_stored(crashed + 1), "after crash {crashed}");
        }
        let key = with(|sim| sim.key_of(&sim.nodes[2]));
        restoring::check_latest(with(|sim| sim.objects.clone()), key, "redis:6379").await?;
        check().await
    };
    play(1, false, scene).unwrap();
}

/// A fresh server is restored from what `old` has done, and goes on in its place.
async fn take_over(old: usize) -> usize {
    let takeover = Takeover::begin(9, old, clock("s"));
    while !takeover.is_over() {
        sleep(Duration::from_secs(1)).await;
    }
    takeover.end().await.unwrap().unwrap()
}

/// What it does after that is no history of its own: a sealed one stays sealed, and its server superseded, whatever it sends.
#[test]
fn a_server_that_is_set_back_does_not_take_the_place_of_the_one_that_goes_on() {
    let scene = async {
        server();
        let a = start("a", 1).await;
        with(|sim| sim.clients(0, 2));
        settle().await;
        let snapshot = node(0);
        with(|sim| sim.clients(0, 3));
        settle().await;
        assert!(is_stored(0));
        let goes_on = take_over(0).await;
        with(|sim| sim.routes.insert("b".to_owned(), goes_on));
        let _b = start("b", 2).await;
        with(|sim| sim.clients(goes_on, 5));
        settle().await;
        assert!(is_stored(goes_on));
        let end = node(0).offset;
        let back = failures::set_back(0, &snapshot);
        while node(back).offset <= end + 100 {
            with(|sim| sim.clients(back, 1));
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!(with(|sim| sim.oracle.counts.own_keys), 0);
        assert!(a.is_over());
        let key = with(|sim| sim.key_of(&sim.nodes[goes_on]));
        restoring::check_latest(with(|sim| sim.objects.clone()), key, "redis:6379").await?;
        check().await
    };
    play(1, false, scene).unwrap();
}

/// Full syncs have a limit, and errors in between: it would ask for one after the other, and never hear twice in a row that it is
/// superseded.
#[test]
fn a_writer_whose_history_is_sealed_ends_without_a_full_sync_though_nothing_can_be_compared() {
    let scene = async {
        let id = server();
        let a = start("a", 1).await;
        with(|sim| sim.clients(0, 2));
        settle().await;
        assert!(is_stored(0));
        a.process.kill();
        let goes_on = take_over(0).await;
        assert_eq!(
            with(|sim| sim.oracle.sealed(id)),
            Some(node(goes_on).offset)
        );
        with(|sim| sim.nodes[0].backlog_first = sim.nodes[0].offset + 1);
        let a = start("a", 2).await;
        assert!(a.is_over());
        assert_eq!(full_syncs(), 1);
        check().await
    };
    play(1, false, scene).unwrap();
}

/// A server whose sidecar is to restore it, in the place of `old` if there is one.
fn replica_of_pod(node: Node, old: Option<usize>) -> usize {
    let at = with(|sim| match old {
        Some(old) => sim.replace(old, node),
        None => {
            sim.routes.insert("pod".to_owned(), sim.nodes.len());
            sim.nodes.push(node);
            sim.nodes.len() - 1
        }
    });
    replica::begin(at);
    at
}

/// Its full sync broke off before it was loaded, so it asks for everything, and has what it was given before. Nobody has proved that,
/// and another one may have claimed it since.
#[test]
fn a_replica_that_asks_for_everything_is_not_opened_with_what_it_was_given_before() {
    let scene = async {
        let fresh = || {
            let mut node = Node::fresh(7, 30_000);
            node.pod = Some("pod".to_owned());
            with(|sim| sim.truth.begin(node.replid, None, 0, node.model.clone()));
            node
        };
        let first = replica_of_pod(fresh(), None);
        let _sidecar = Running::start("pod", 1, CaptureConfig::default(), WhenBehind::Wait);
        settle().await;
        with(|sim| sim.clients(first, 20));
        settle().await;
        assert!(is_stored(first));
        let before = node(first);
        let mut holds = fresh();
        holds.replid = before.replid;
        holds.line = before.line;
        holds.offset = before.offset;
        holds.model = before.model;
        let second = replica_of_pod(holds, Some(first));
        with(|sim| sim.nodes[second].given = true);
        settle().await;
        settle().await;
        assert!(with(|sim| sim.nodes[second].is_restored));
        assert_eq!(node(second).replid2, Some((before.replid, before.offset)));
        check().await
    };
    play(1, false, scene).unwrap();
}

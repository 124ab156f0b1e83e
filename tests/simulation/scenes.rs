//! Single scenes: what the seeds have found, told once more in a few lines.

use std::time::Duration;

use tokio::time::sleep;

use super::director::Writer;
use super::redis::Node;
use super::{failure, failures, play, restoring, with};
use crate::config::CaptureConfig;
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

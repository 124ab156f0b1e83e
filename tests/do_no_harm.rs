//! What goes wrong on our side, or on the way, must not make the master fork again and again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backfeed::archive::Archive;
use backfeed::capture::{Capture, Clock, FULL_SYNCS_MAX, MasterWatch, SessionEnd};
use backfeed::config::{CaptureConfig, Source};
use backfeed::monitoring::status::Status;
use backfeed::store::MemoryStore;
use backfeed::store::memory::Fault;
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::sync::watch;

use crate::support::master::{Manner, Master, Recording};
use crate::support::{Backfeed, Server, Version};

/// Long enough for hundreds of tries; short of the pause before a third full sync.
const HAMMERING: Duration = Duration::from_secs(5);

/// Session after session, without any pause between them. How each ended.
fn hammer(store: &MemoryStore, master: &Master) -> (Vec<SessionEnd>, Status) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let archive = Archive::open_or_create(store.shared(), 1).await.unwrap();
        let clock: Clock = Arc::new(|| 1_700_000_000_000);
        let source: Source = master.url().parse().unwrap();
        let status = Status::new();
        let mut capture = Capture::new(
            archive,
            CaptureConfig::default(),
            source.addr(),
            status.clone(),
            clock,
        );
        let (_stop, mut shutdown) = watch::channel(false);
        let (begun, mut ends) = (Instant::now(), Vec::new());
        while begun.elapsed() < HAMMERING {
            let session = capture.session(&source, MasterWatch::none(), false, &mut shutdown);
            ends.push(session.await.end);
        }
        (ends, status)
    })
}

fn assert_two_full_syncs(master: &Master, (ends, status): &(Vec<SessionEnd>, Status), what: &str) {
    let metrics = status.metrics();
    let counted = [
        metrics.full_syncs_begun.get(),
        metrics.full_syncs.get(),
        metrics.full_syncs_failed.get(),
    ];
    assert_eq!(counted, [2, 0, 2], "{what}");
    let limited = ends
        .iter()
        .filter(|end| matches!(end, SessionEnd::FullSyncLimit { .. }));
    assert!(limited.count() > 20, "{ends:?}");
    let seen = master.seen();
    assert_eq!((seen.full_syncs, seen.links), (2, 2), "{what}: {seen:?}");
    let last = ends.last().map(ToString::to_string).unwrap_or_default();
    assert!(last.contains("the next one is allowed in"), "{last}");
}

#[test]
fn a_way_that_cuts_every_full_sync_costs_two_of_them_and_no_storm() {
    let recording = Recording::of(Version::Redis70);
    // In the middle of the snapshot.
    let cut_links = Some(200);
    let master = Master::start(
        &recording,
        Manner {
            cut_links,
            ..Manner::default()
        },
    );
    let ends = hammer(&MemoryStore::new(), &master);
    assert_two_full_syncs(&master, &ends, "cut");
}

#[test]
fn a_store_that_loses_every_base_costs_two_full_syncs_and_no_storm() {
    let recording = Recording::of(Version::Redis70);
    let master = Master::start(&recording, Manner::default());
    let store = MemoryStore::new();
    let archive = Archive::open_or_create(store.shared(), 1);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(archive).unwrap();
    store.fail_creates(10_000, Fault::Permanent);
    let ends = hammer(&store, &master);
    assert_two_full_syncs(&master, &ends, "lost by the store");
}

/// The whole program: what it says, and that it goes on once it may.
#[test]
fn a_server_that_closes_every_link_is_asked_ever_more_rarely() {
    let recording = Recording::of(Version::Redis70);
    let cut_links = Some(0);
    let master = Master::start(
        &recording,
        Manner {
            cut_links,
            ..Manner::default()
        },
    );
    let home = TempDir::new().unwrap();
    let store = format!("file://{}", home.path().display());
    let backfeed = Backfeed::backup(&master.url(), &store, &[]);
    std::thread::sleep(HAMMERING);
    // Pauses of 0.5 s, 1 s, 2 s, 4 s, a quarter less at most.
    let links = master.seen().links;
    assert!((2..=5).contains(&links), "{links}");
    backfeed.wait("it says so", |view| {
        view["last_error"]
            .as_str()
            .is_some_and(|error| error.contains("the connection was lost"))
    });
}

/// A real server that forgets its history with every restart: each full sync is of use, and still there is a limit.
#[test]
fn a_server_that_restarts_all_the_time_is_not_copied_every_time() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}", home.path().display());
    let mut server = Server::start(Version::Redis70, &[]);
    let backfeed = Backfeed::backup(&server.url(), &store, &[]);
    backfeed.wait_following();
    for _ in 1..FULL_SYNCS_MAX {
        server.restart();
        server.cmd(&["SET", "a", "key"]);
        backfeed.wait_captured(&server);
    }
    assert_eq!(
        backfeed.metric("backfeed_full_syncs_total") as usize,
        FULL_SYNCS_MAX
    );
    server.restart();
    backfeed.wait("it says that it waits", |view| {
        view["last_error"]
            .as_str()
            .is_some_and(|error| error.contains("at most 4 in 600 s"))
    });
    assert_eq!(server.info("stats")["sync_full"], "0", "{}", backfeed.log());
    assert_eq!(backfeed.metric("backfeed_ready"), 0.0);
}

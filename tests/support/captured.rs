//! A capture in the process of the test, by the library: for what the program has no flag for.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::unwrap_used
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use backfeed::archive::{Archive, BaseManifest};
use backfeed::capture::{Capture, Clock, MasterWatch, SessionEnd, refetch};
use backfeed::config::{CaptureConfig, Source};
use backfeed::monitoring::status::{Phase, Status, unix_ms_now};
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::sync::watch;

use super::backfeed::PATIENCE;
use super::server::{Server, Version, wait_until};

/// A capture in this process, whose clock is ahead of the true one by as much as is wanted.
pub struct Captured {
    pub server: Server,
    pub store: String,
    pub ahead_ms: Arc<AtomicI64>,
    pub status: Status,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<SessionEnd>>,
    pub home: TempDir,
}

impl Captured {
    pub fn start(version: Version, ahead_ms: i64) -> Self {
        let home = TempDir::new().unwrap();
        let mut captured = Self {
            server: Server::start(version, &[]),
            store: format!("file://{}/bucket", home.path().display()),
            ahead_ms: Arc::new(AtomicI64::new(ahead_ms)),
            status: Status::new(),
            stop: watch::channel(false).0,
            thread: None,
            home,
        };
        captured.follow();
        captured
    }

    /// Another capture of the same server into the same store.
    pub fn follow(&mut self) {
        self.stop = watch::channel(false).0;
        self.status = Status::new();
        let (status, ahead, store) = (
            self.status.clone(),
            Arc::clone(&self.ahead_ms),
            self.store.clone(),
        );
        let source: Source = self.server.url().parse().unwrap();
        let mut shutdown = self.stop.subscribe();
        let clock: Clock = Arc::new(move || unix_ms_now() + ahead.load(Ordering::SeqCst));
        let config = CaptureConfig {
            flush_interval: Duration::from_millis(20),
            ..CaptureConfig::default()
        };
        self.thread = Some(std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let store = backfeed::store::open(&store).await.unwrap();
                let archive = Archive::open_or_create(store, clock()).await.unwrap();
                let mut capture = Capture::new(archive, config, source.addr(), status, clock);
                let session = capture.session(&source, MasterWatch::none(), false, &mut shutdown);
                session.await.end
            })
        }));
        self.wait_stored();
    }

    /// Everything that the server has said by now is stored, `PING`s aside.
    pub fn wait_stored(&self) {
        let mut upto = self.server.position();
        wait_until("it is stored", PATIENCE, || {
            // The first replica makes a fresh server take another id.
            let now = self.server.position();
            if now.0 != upto.0 {
                upto = now;
            }
            let view = self.status.view();
            view.phase == Phase::Following
                && view
                    .history
                    .is_some_and(|history| history.as_str() == upto.0)
                && view.received_offset >= Some(upto.1)
                && view.lag_bytes == Some(0)
        });
    }

    /// Stops it when everything is stored.
    pub fn stop(&mut self) {
        self.stop.send_replace(true);
        let end = self.thread.take().unwrap().join().unwrap();
        assert!(matches!(end, SessionEnd::Stopped), "{end}");
    }

    /// Takes a full sync beside the feed, as the upkeep does. Writes go on meanwhile.
    pub fn new_base(&self) -> BaseManifest {
        let (status, store) = (self.status.clone(), self.store.clone());
        let source: Source = self.server.url().parse().unwrap();
        let clock: Clock = Arc::new(unix_ms_now);
        let taking = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let store = backfeed::store::open(&store).await.unwrap();
                let archive = Archive::open(store).await.unwrap();
                let base = refetch::new_base(&source, &archive, &status, &clock, None);
                base.await.unwrap()
            })
        });
        while !taking.is_finished() {
            self.server.cmd(&["INCR", "meanwhile"]);
            std::thread::sleep(Duration::from_millis(10));
        }
        taking.join().unwrap()
    }
}

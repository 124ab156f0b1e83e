//! Clients that write as fast as they get replies, and know which writes were answered.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use super::backfeed::PATIENCE;
use super::server::{Server, wait_until};

/// Writers, each on a connection of its own: writer `w` sets `load:w:0`, `load:w:1` … to that number.
pub struct Load {
    stop: Arc<AtomicBool>,
    replies: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins; each writer ends at its first error.
    pub fn start(server: &Server, writers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let replies: Vec<_> = (0..writers).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let writer = |(writer, replies): (usize, &Arc<AtomicU64>)| {
            let (stop, replies) = (Arc::clone(&stop), Arc::clone(replies));
            let mut connection = server.connect();
            thread::spawn(move || {
                for n in 0_u64.. {
                    let set = redis::cmd("SET").arg(key(writer, n)).arg(n).to_owned();
                    if stop.load(Ordering::Relaxed) || set.exec(&mut connection).is_err() {
                        return;
                    }
                    replies.store(n + 1, Ordering::Relaxed);
                }
            })
        };
        let threads = replies.iter().enumerate().map(writer).collect();
        Self {
            stop,
            replies,
            threads,
        }
    }

    /// Waits until each writer has got `more` further replies.
    pub fn wait_replies(&self, more: u64) {
        for replies in &self.replies {
            let enough = replies.load(Ordering::Relaxed) + more;
            wait_until("the writers get replies", PATIENCE, || {
                replies.load(Ordering::Relaxed) >= enough
            });
        }
    }

    /// Ends it: how many writes of each writer were answered.
    pub fn stop(self) -> Answered {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a writer");
        }
        let replies = self.replies.iter();
        Answered(
            replies
                .map(|replies| replies.load(Ordering::Relaxed))
                .collect(),
        )
    }
}

/// What the writers know.
#[derive(Debug)]
pub struct Answered(Vec<u64>);

impl Answered {
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every write that was answered is there.
    #[track_caller]
    pub fn assert_all_in(&self, server: &Server) {
        let mut connection = server.connect();
        for (writer, &count) in self.0.iter().enumerate() {
            let all: Vec<u64> = (0..count).collect();
            for some in all.chunks(1000) {
                let keys: Vec<String> = some.iter().map(|&n| key(writer, n)).collect();
                let values: Vec<Option<u64>> = redis::cmd("MGET")
                    .arg(&keys)
                    .query(&mut connection)
                    .expect("MGET");
                for (n, value) in some.iter().zip(values) {
                    assert_eq!(
                        value,
                        Some(*n),
                        "{server}: {} of {self:?} was answered",
                        key(writer, *n)
                    );
                }
            }
        }
    }
}

fn key(writer: usize, n: u64) -> String {
    format!("load:{writer}:{n}")
}

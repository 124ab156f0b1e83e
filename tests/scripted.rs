//! A scripted master hangs up at every byte of the handshake and at seeded offsets of the rest, stammers, falls silent and
//! babbles. In the end the archive holds one history whose bytes are exactly those that the master has sent.

use std::sync::Arc;
use std::time::Duration;

use backfeed::archive::{Archive, BaseManifest};
use backfeed::capture::{Capture, Clock, MasterWatch, SessionEnd};
use backfeed::config::{AckPolicy, CaptureConfig, Source};
use backfeed::monitoring::status::Status;
use backfeed::recovery::{BadBases, LogForm, RecoveryTarget, log, plan, snapshot};
use backfeed::service::SessionPauses;
use backfeed::store::MemoryStore;
use backfeed::wire::position::ReplId;
use futures::TryStreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::support::master::{Framing, MARK, Manner, Master, Recording};
use crate::support::{Version, wait_until};

/// A real debug build on busy cores: patient.
const PATIENCE: Duration = Duration::from_secs(30);

/// One life of a backfeed: what it knows is gone with it, but for the store.
struct Life {
    capture: Capture,
    status: Status,
    source: Source,
    stop: watch::Sender<bool>,
}

impl Life {
    fn new(archive: Archive, master: &Master) -> Self {
        let status = Status::new();
        let clock: Clock = Arc::new(|| 1_700_000_000_000);
        let config = CaptureConfig {
            flush_interval: Duration::from_millis(1),
            idle_interval: Duration::from_millis(1),
            segment_size: 64 * 1024,
            memory_limit: 1024 * 1024,
            spool: None,
            ack: AckPolicy::Stored,
        };
        let source: Source = master.url().parse().unwrap();
        Self {
            capture: Capture::new(archive, config, source.addr(), status.clone(), clock),
            status,
            source,
            stop: watch::channel(false).0,
        }
    }

    async fn on(store: &MemoryStore, master: &Master) -> Self {
        let archive = Archive::open_or_create(store.shared(), 1).await.unwrap();
        Self::new(archive, master)
    }

    async fn session(&mut self) -> SessionEnd {
        let mut shutdown = self.stop.subscribe();
        let session = self
            .capture
            .session(&self.source, MasterWatch::none(), false, &mut shutdown);
        match tokio::time::timeout(PATIENCE, session).await {
            Ok(session) => session.end,
            Err(_) => panic!("no end of the session at {:?}", self.status.view()),
        }
    }

    /// Sessions until everything up to `end` is stored; how the ones before had ended.
    async fn until_stored(&mut self, end: u64) -> Vec<String> {
        let mut ends = Vec::new();
        let (status, stop) = (self.status.clone(), self.stop.clone());
        let stopper = tokio::spawn(async move {
            while status.view().stored_offset != Some(end) {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            stop.send_replace(true);
        });
        loop {
            match self.session().await {
                SessionEnd::Stopped => break,
                other => ends.push(other.to_string()),
            }
            assert!(ends.len() < 20, "{ends:?}");
        }
        stopper.abort();
        self.stop.send_replace(false);
        ends
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn bases(store: &MemoryStore) -> Vec<String> {
    let mut names = store.names();
    names.retain(|name| name.contains("/base/"));
    names
}

/// The only restorable history is the recording's, and its bytes are the recording's.
async fn assert_holds(store: &MemoryStore, recording: &Recording) -> BaseManifest {
    let archive = Archive::open(store.shared()).await.unwrap();
    let catalog = archive.catalog().await.unwrap();
    assert!(catalog.problems.is_empty(), "{:?}", catalog.problems);
    let id: ReplId = recording.id.parse().unwrap();
    assert_eq!(catalog.histories.keys().collect::<Vec<_>>(), [&id]);
    let history = &catalog.histories[&id];
    assert!(history.problems.is_empty(), "{:?}", history.problems);
    assert_eq!(history.bases.len(), 1, "{:?}", store.names());
    let plan = plan(
        &archive,
        &catalog,
        id,
        RecoveryTarget::Latest,
        &BadBases::new(),
    )
    .await
    .unwrap();
    assert_eq!(plan.notes, Vec::<String>::new());
    assert_eq!(plan.base.offset.0, recording.offset);
    assert_eq!(plan.end.offset.0, recording.end());
    let (length, base) = snapshot(&archive, &plan.base, false).await.unwrap();
    let base: Vec<_> = base.try_collect().await.unwrap();
    assert_eq!(length, recording.rdb.len() as u64);
    assert!(base.concat() == recording.rdb, "the snapshot differs");
    let feed: Vec<_> = log(&archive, &plan, LogForm::Raw)
        .try_collect()
        .await
        .unwrap();
    assert!(feed.concat() == recording.feed, "the feed differs");
    plan.base
}

/// Hangs up at one place, and everything is there all the same. Gives what the first session ended with.
fn survives(recording: &Recording, manner: &Manner) -> String {
    let store = MemoryStore::new();
    let master = Master::start(recording, manner.clone());
    runtime().block_on(async {
        let mut life = Life::on(&store, &master).await;
        let first = life.session().await;
        let in_feed = {
            let seen = master.seen();
            assert!(seen.was_cut, "{manner:?}: {first}");
            seen.full_syncs == 1 && life.status.metrics().full_syncs.get() == 1
        };
        let all_was_sent = life.status.view().received_offset == Some(recording.end());
        if !in_feed {
            assert_eq!(
                bases(&store),
                Vec::<String>::new(),
                "{manner:?}: a base out of a cut RDB"
            );
        }
        life.until_stored(recording.end()).await;
        assert_holds(&store, recording).await;
        let seen = master.seen();
        assert_eq!(seen.wrong, Vec::<String>::new(), "{manner:?}");
        assert_eq!(life.status.metrics().full_syncs.get(), 1, "{manner:?}");
        if in_feed {
            let resumed = (seen.full_syncs, seen.continues);
            assert!(
                resumed == (1, 1) || (resumed == (1, 0) && all_was_sent),
                "{manner:?}"
            );
        }
        first.to_string()
    })
}

/// The process dies when the master has said so many bytes; the next one finishes.
fn survives_death(recording: &Recording, manner: &Manner) {
    let store = MemoryStore::new();
    let master = Master::start(recording, manner.clone());
    let first = runtime();
    first.block_on(async {
        let mut life = Life::on(&store, &master).await;
        let cut = async {
            while !master.seen().was_cut {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { _ = life.session() => {} () = cut => {} }
    });
    first.shutdown_background();
    let manifests = bases(&store)
        .iter()
        .filter(|name| name.ends_with(".json"))
        .count();
    runtime().block_on(async {
        let mut life = Life::on(&store, &master).await;
        life.until_stored(recording.end()).await;
        assert_holds(&store, recording).await;
    });
    let seen = master.seen();
    assert_eq!(seen.wrong, Vec::<String>::new(), "{manner:?}");
    assert!(
        manifests == 0 || seen.full_syncs == 1,
        "{manner:?}: {seen:?}"
    );
}

/// Bytes of the link's conversation before the payload, with it, and with the feed.
fn places(recording: &Recording, framing: Framing, password: bool) -> (usize, usize, usize) {
    let login = if password { "+OK\r\n" } else { "" };
    let lines = format!(
        "{login}+OK\r\n+FULLRESYNC {} {}\r\n",
        recording.id, recording.offset
    );
    let (header, mark) = match framing {
        Framing::Length => (format!("${}\r\n", recording.rdb.len()).len(), 0),
        Framing::Mark => ("$EOF:\r\n".len() + MARK.len(), MARK.len()),
    };
    // The login's answer is said before the kind of the connection is known, and does not count.
    let handshake = lines.len() - login.len() + header;
    let payload = handshake + recording.rdb.len() + mark;
    (handshake, payload, payload + recording.feed.len())
}

const FRAMINGS: [Framing; 2] = [Framing::Length, Framing::Mark];

#[test]
fn hanging_up_at_every_byte_of_the_handshake() {
    let recording = Recording::of(Version::Redis86);
    for framing in FRAMINGS {
        let (handshake, _, _) = places(&recording, framing, false);
        for cut in 0..=handshake {
            let end = survives(
                &recording,
                &Manner {
                    framing,
                    cut_link: Some(cut),
                    ..Manner::default()
                },
            );
            assert!(end.contains("the connection was lost"), "{cut}: {end}");
        }
    }
}

#[test]
fn hanging_up_at_every_byte_of_the_look_at_the_server() {
    let recording = Recording::of(Version::Redis70);
    // `INFO` is what the ordinary connection asks for.
    for cut in 0..150 {
        let end = survives(
            &recording,
            &Manner {
                cut_control: Some(cut),
                password: cut % 2 == 0,
                ..Manner::default()
            },
        );
        assert!(end.contains("in an ordinary command"), "{cut}: {end}");
    }
}

#[test]
fn hanging_up_in_the_payload() {
    let recording = Recording::of(Version::Valkey91);
    let mut random = StdRng::seed_from_u64(2);
    for framing in FRAMINGS {
        let (handshake, payload, _) = places(&recording, framing, false);
        // The last bytes are the checksum and the mark: each of them.
        let last = payload - 60..payload;
        let some = (0..60).map(|_| random.random_range(handshake..payload));
        for cut in some.chain(last) {
            let end = survives(
                &recording,
                &Manner {
                    framing,
                    cut_link: Some(cut),
                    ..Manner::default()
                },
            );
            assert!(
                end.contains("the connection was lost during the full sync"),
                "{cut}: {end}"
            );
        }
    }
}

#[test]
fn hanging_up_in_the_feed() {
    let recording = Recording::of(Version::Redis80);
    let mut random = StdRng::seed_from_u64(3);
    for framing in FRAMINGS {
        let (_, payload, all) = places(&recording, framing, false);
        let some = (0..150).map(|_| random.random_range(payload..all));
        for cut in some.chain([payload, payload + 1, all - 1, all]) {
            let end = survives(
                &recording,
                &Manner {
                    framing,
                    cut_link: Some(cut),
                    piece: 1 + cut % 199,
                    ..Manner::default()
                },
            );
            assert!(
                end.contains("the connection was lost while following the feed"),
                "{cut}: {end}"
            );
        }
    }
}

#[test]
fn dying_anywhere() {
    let recording = Recording::of(Version::Redis62);
    let mut random = StdRng::seed_from_u64(4);
    for framing in FRAMINGS {
        let (handshake, payload, all) = places(&recording, framing, false);
        let anywhere = (0..40).map(|_| random.random_range(0..=all));
        // The commit of the snapshot goes on beside the feed: around its end is where to die.
        for cut in anywhere
            .chain(payload - 20..payload + 60)
            .chain([handshake])
        {
            survives_death(
                &recording,
                &Manner {
                    framing,
                    cut_link: Some(cut),
                    piece: 1 + cut % 397,
                    ..Manner::default()
                },
            );
        }
    }
}

/// No cut: one session takes it all.
fn takes(recording: &Recording, manner: Manner) {
    let store = MemoryStore::new();
    let master = Master::start(recording, manner);
    runtime().block_on(async {
        let mut life = Life::on(&store, &master).await;
        let ends = life.until_stored(recording.end()).await;
        assert_eq!(ends, Vec::<String>::new());
        assert_holds(&store, recording).await;
    });
    // Everything is acknowledged, but for the last byte. The master reads it on a thread of its own.
    wait_until("everything is acknowledged", PATIENCE, || {
        master.seen().acked >= recording.end() - 1
    });
    assert_eq!(master.seen().wrong, Vec::<String>::new());
}

#[test]
fn one_byte_at_a_time_with_newlines_everywhere_from_a_master_that_awaits_an_acknowledgement() {
    for version in [Version::Redis60, Version::Redis86, Version::Valkey91] {
        let recording = Recording::of(version).with_newlines();
        for framing in FRAMINGS {
            takes(
                &recording,
                Manner {
                    framing,
                    password: true,
                    keepalives: true,
                    piece: 1,
                    awaits_ack: true,
                    ..Manner::default()
                },
            );
        }
    }
}

#[test]
fn noise_in_the_feed_ends_the_link_and_is_not_stored() {
    let recording = Recording::of(Version::Redis70);
    for noise in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"*1\r\n+PING\r\n",
        b"*-5\r\n",
        b"*1\r\n$99999999999999999999\r\n",
        b"\x00\xff\xfe",
        b"*2\r\n$3\r\nSETnonsense",
    ] {
        let store = MemoryStore::new();
        let manner = Manner {
            noise: Some(noise),
            ..Manner::default()
        };
        let master = Master::start(&recording, manner);
        runtime().block_on(async {
            let mut life = Life::on(&store, &master).await;
            let end = life.session().await;
            assert!(matches!(end, SessionEnd::Feed(_)), "{end:?}");
            let text = end.to_string();
            let at = format!("the command feed is corrupt at offset {}", recording.end());
            let at = at.trim_end_matches(|c: char| c.is_ascii_digit());
            assert!(
                text.starts_with(at) && text.ends_with("the link counts as broken"),
                "{text}"
            );
            assert!(!end.is_permanent());
            life.until_stored(recording.end()).await;
            assert_holds(&store, &recording).await;
        });
        let seen = master.seen();
        assert_eq!(seen.wrong, Vec::<String>::new());
        assert_eq!(seen.full_syncs, 1);
    }
}

#[test]
fn a_master_that_repeats_full_syncs_for_ever_makes_neither_copies_nor_gaps() {
    const TIMES: usize = 8;
    let recording = Recording::of(Version::Redis80);
    let (_, payload, all) = places(&recording, Framing::Length, false);
    let store = MemoryStore::new();
    let mut stored = 0;
    for round in 0..TIMES {
        // Each time from the same snapshot, a little further, and by a process that knows nothing.
        let cut = payload + (all - payload) * round / TIMES;
        let manner = Manner {
            cut_link: Some(cut),
            full_syncs: usize::MAX,
            ..Manner::default()
        };
        let master = Master::start(&recording, manner);
        runtime().block_on(async {
            let mut life = Life::on(&store, &master).await;
            let end = life.session().await;
            assert!(
                end.to_string().contains("while following the feed"),
                "{end}"
            );
            life.capture.drain().await.unwrap();
        });
        assert_eq!(master.seen().full_syncs, 1);
        assert_eq!(bases(&store).len(), 2, "{:?}", bases(&store));
        assert!(store.names().len() >= stored, "nothing is ever deleted");
        stored = store.names().len();
    }
    let master = Master::start(
        &recording,
        Manner {
            full_syncs: usize::MAX,
            ..Manner::default()
        },
    );
    runtime().block_on(async {
        let mut life = Life::on(&store, &master).await;
        life.until_stored(recording.end()).await;
        assert_holds(&store, &recording).await;
    });
}

/// A full sync makes the master fork: a link that breaks at once must not cost one a second.
#[test]
fn full_syncs_that_fail_are_ever_further_apart() {
    let mut between = SessionPauses::default();
    // However long it lasts: a large snapshot may be lost at its end.
    let pauses: Vec<Duration> = (0..20)
        .map(|n| between.after(Duration::from_secs(n * 60), false))
        .collect();
    assert!(pauses[0] <= Duration::from_millis(500));
    assert!(
        pauses[..10].iter().sum::<Duration>() > Duration::from_secs(90),
        "{pauses:?}"
    );
    for pause in &pauses[7..] {
        assert!(
            (Duration::from_secs(22)..=Duration::from_secs(30)).contains(pause),
            "{pause:?}"
        );
    }
}

#[test]
fn a_second_answer_to_psync_is_not_taken_for_a_payload() {
    let recording = Recording::of(Version::Redis70);
    let line = format!("+FULLRESYNC {} {}\r\n", recording.id, recording.offset);
    for (reply, wanted) in [
        (
            line.repeat(2),
            "this does not look like a Redis server: it began a full sync with `+FULLRESYNC",
        ),
        (
            "+CONTINUE\r\n".to_owned(),
            "this does not look like a Redis server: it answered PSYNC with `+CONTINUE`",
        ),
        (
            "+FULLRESYNC nonsense 12\r\n".to_owned(),
            "this does not look like a Redis server: it answered PSYNC with `+FULLRESYNC nonsense 12`",
        ),
        (
            format!("{line}$-1\r\n"),
            "this does not look like a Redis server: it began a full sync with `$-1`",
        ),
        (
            format!("{line}-ERR BGSAVE failed, replication can't continue\r\n"),
            "the server is not ready: ERR BGSAVE failed, replication can't continue",
        ),
        (
            "-NOMASTERLINK Can't SYNC while not connected with my master\r\n".to_owned(),
            "the server is not ready: NOMASTERLINK",
        ),
        (
            "-MASTERDOWN Link with MASTER is down\r\n".to_owned(),
            "the server is not ready: MASTERDOWN",
        ),
        (
            "-LOADING Redis is loading the dataset in memory\r\n".to_owned(),
            "the server is not ready: LOADING",
        ),
        (
            "-BUSY Redis is busy running a script.\r\n".to_owned(),
            "the server is not ready: BUSY",
        ),
    ] {
        let store = MemoryStore::new();
        let manner = Manner {
            psync_reply: Some(reply.clone()),
            ..Manner::default()
        };
        let master = Master::start(&recording, manner);
        let end = runtime().block_on(async {
            let mut life = Life::on(&store, &master).await;
            life.session().await
        });
        assert!(end.to_string().contains(wanted), "{reply:?}: {end}");
        assert_eq!(
            end.is_permanent(),
            wanted.contains("does not look"),
            "{reply:?}: {end}"
        );
        assert_eq!(bases(&store), Vec::<String>::new());
    }
}

/// The clock stands while there is something to do, and jumps when all wait: a minute passes in no time.
#[test]
fn a_half_open_link_ends_after_a_minute_of_silence() {
    let recording = Recording::of(Version::Redis86);
    let (handshake, payload, all) = places(&recording, Framing::Mark, false);
    for (cut, wanted, during) in [
        (2, 60, "in the handshake"),
        (handshake - 1, 60, "during the full sync"),
        ((handshake + payload) / 2, 60, "during the full sync"),
        (payload - 7, 60, "during the full sync"),
        (payload, 60, "while following the feed"),
        (all - 3, 60, "while following the feed"),
    ] {
        let manner = Manner {
            framing: Framing::Mark,
            cut_link: Some(cut),
            fall_silent: true,
            ..Manner::default()
        };
        let (end, waited) = silence(&recording, manner);
        assert!(
            end.contains(&format!("nothing was received for {wanted} s {during}")),
            "{cut}: {end}"
        );
        // From the last byte heard on; all that was before took real time.
        assert!((55.0..=61.0).contains(&waited), "{cut}: {waited} s");
    }
    let manner = Manner {
        cut_control: Some(9),
        fall_silent: true,
        ..Manner::default()
    };
    let (end, waited) = silence(&recording, manner);
    assert!(end.contains("no answer to INFO within 15 s"), "{end}");
    assert!((10.0..=16.0).contains(&waited), "{waited} s");
}

fn silence(recording: &Recording, manner: Manner) -> (String, f64) {
    let store = MemoryStore::new();
    let cut = manner.cut_link;
    let (_, payload, _) = places(recording, Framing::Mark, false);
    let master = Master::start(recording, manner);
    runtime().block_on(async {
        let mut life = Life::on(&store, &master).await;
        let status = life.status.clone();
        let mut shutdown = life.stop.subscribe();
        let session = life
            .capture
            .session(&life.source, MasterWatch::none(), false, &mut shutdown);
        let mut session = std::pin::pin!(session);
        // Real time, until the master has said its last word and it has arrived.
        let said = async {
            let heard = |cut: usize| {
                let feed = cut.saturating_sub(payload) as u64;
                cut < payload || status.view().received_offset == Some(recording.offset + feed)
            };
            while !(master.seen().was_cut && cut.is_none_or(heard)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        tokio::select! { over = &mut session => panic!("{}", over.end), () = said => {} }
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        let end = session.await.end;
        (end.to_string(), begun.elapsed().as_secs_f64())
    })
}

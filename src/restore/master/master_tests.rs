#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]

use futures::stream;
use tokio::io::DuplexStream;

use super::*;
use crate::archive::ArchiveError;
use crate::recovery::RecoveryError;

fn content(chunks: &[&'static [u8]]) -> Content {
    let chunks: Vec<_> = chunks
        .iter()
        .map(|chunk| Ok(Bytes::from_static(chunk)))
        .collect();
    stream::iter(chunks).boxed()
}

const FEED: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const GETACK: &[u8] = b"*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n";

fn sample(continues: bool) -> Offer {
    replayed(continues, 6, content(&[FEED]))
}

/// A snapshot of six bytes that is said to have `length`, and a log.
fn replayed(continues: bool, length: u64, log: Content) -> Offer {
    Offer {
        id: ReplId::from_random([0xCD; 20]),
        offset: Offset(1000),
        payload: Payload::Replayed {
            length,
            snapshot: content(&[b"REDI", b"S!"]),
            log_bytes: FEED.len() as u64,
            log,
            end: continues.then_some(Offset(1000 + FEED.len() as u64)),
            refused: 0,
        },
        may_add: !continues,
    }
}

fn counts() -> Counts {
    Counts {
        libraries: 3,
        ..Counts::default()
    }
}

/// The same as one snapshot. `is_whole`: it comes to its end.
fn rebuilt(continues: bool, is_whole: bool) -> Offer {
    let (counted, counts_of_it) = oneshot::channel();
    let mut pieces = vec![
        Ok(Bytes::from_static(b"REDI")),
        Ok(Bytes::from_static(b"S!")),
    ];
    match is_whole {
        true => counted.send(counts()).unwrap(),
        false => pieces.push(Err(RebuildError::Memory { limit: 5 })),
    }
    Offer {
        id: ReplId::from_random([0xCD; 20]),
        offset: Offset(1000),
        payload: Payload::Rebuilt {
            about: 6,
            snapshot: stream::iter(pieces).boxed(),
            counts: counts_of_it,
        },
        may_add: !continues,
    }
}

/// A target that reads what is expected, whole.
struct Target(DuplexStream);

impl Target {
    async fn says(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn gets(&mut self, wanted: &[u8]) {
        let mut got = vec![0; wanted.len()];
        self.0.read_exact(&mut got).await.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&got),
            String::from_utf8_lossy(wanted)
        );
    }

    async fn gets_everything(&mut self) {
        self.gets(format!("+FULLRESYNC {} 1000\r\n", "cd".repeat(20)).as_bytes())
            .await;
        self.gets(b"$6\r\nREDIS!").await;
        self.gets(FEED).await;
    }
}

fn ack(offset: u64) -> Vec<u8> {
    let offset = offset.to_string();
    let mut out = Vec::new();
    encode_command(&[b"REPLCONF", b"ACK", offset.as_bytes()], &mut out);
    out
}

const PSYNC: &[u8] = b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n";

async fn serve_replica<F>(
    stream: DuplexStream,
    prepare: impl FnOnce() -> F,
) -> Result<CaughtUp<DuplexStream>, ServeError>
where
    F: Future<Output = Result<Offer, RestoreError>>,
{
    handshake(stream, None).await?.serve(prepare(), &()).await
}

/// Serves `offer` to `target`, which does what it is told.
async fn serve<F>(
    offer: Offer,
    buffer: usize,
    target: impl FnOnce(Target) -> F,
) -> (Result<CaughtUp<DuplexStream>, ServeError>, F::Output)
where
    F: Future,
{
    let (ours, theirs) = tokio::io::duplex(buffer);
    let prepare = || async { Ok(offer) };
    tokio::join!(serve_replica(ours, prepare), target(Target(theirs)))
}

#[tokio::test]
async fn a_target_gets_snapshot_and_log_and_is_done_when_it_acknowledges_the_last_byte() {
    for buffer in [1, 7, 4096] {
        let (served, mut target) = serve(sample(true), buffer, |mut target| async move {
            target.says(b"PING\r\n").await;
            target.gets(b"+PONG\r\n").await;
            target.says(PSYNC).await;
            target.gets_everything().await;
            target.says(b"\n\n").await; // it loads
            target.says(&ack(1000)).await;
            target.says(&ack(1014)).await;
            target
        })
        .await;
        let mut caught_up = served.unwrap();
        assert_eq!(caught_up.end(), Offset(1014));
        // promoted: it hangs up, and nothing more has been sent to it
        let rest = async {
            let mut rest = Vec::new();
            target.0.shutdown().await.unwrap();
            target.0.read_to_end(&mut rest).await.unwrap();
            rest
        };
        let hold = async {
            let held = caught_up.hold().await;
            drop(caught_up);
            held
        };
        let (held, rest) = tokio::join!(hold, rest);
        held.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// What comes while a reply is on its way out is answered too. (Which of the two is seen first is a matter of luck.)
#[tokio::test(start_paused = true)]
async fn a_target_that_sends_while_it_is_answered_gets_every_answer() {
    for _ in 0..100 {
        // The reply does not fit into the connection at once, and the next command does.
        let (served, ()) = serve(sample(true), 6, |mut target| async move {
            target.says(b"PING\r\n").await;
            target.gets(b"+PONG\r").await;
            target.says(b"PING\r\n").await;
            target.gets(b"\n+PONG\r\n").await;
            target.says(PSYNC).await;
            target.gets_everything().await;
            target.says(&ack(1014)).await;
        })
        .await;
        served.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_fork_is_asked_and_kept_alive_with_pings() {
    for continues in [true, false] {
        let (served, mut target) = serve(sample(continues), 4096, |mut target| async move {
            target.says(PSYNC).await;
            target.gets_everything().await;
            target.says(&ack(1014)).await;
            target
        })
        .await;
        let mut caught_up = served.unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(35), caught_up.hold()).await;
        assert!(waited.is_err(), "the target has not closed the connection");
        drop(caught_up);
        let mut rest = Vec::new();
        target.0.read_to_end(&mut rest).await.unwrap();
        let wanted = if continues {
            Vec::new()
        } else {
            [GETACK, &FEED.repeat(3)].concat()
        };
        assert_eq!(rest, wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn newlines_go_out_while_the_snapshot_is_prepared_and_never_later() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let prepare = || async {
        tokio::time::sleep(Duration::from_secs(12)).await;
        Ok(sample(true))
    };
    let mut target = Target(theirs);
    let conversation = async {
        target.says(PSYNC).await;
        target.gets(b"\n\n").await;
        target.gets_everything().await;
        target.says(&ack(1014)).await;
    };
    let (served, ()) = tokio::join!(serve_replica(ours, prepare), conversation);
    served.unwrap();
}

/// The answer to `GETACK` does not count that command; later acknowledgements do.
#[tokio::test]
async fn a_target_with_more_bytes_than_were_sent_must_not_be_promoted() {
    let asked = GETACK.len() as u64;
    for (continues, last) in [(true, 1014), (false, 1014 + asked)] {
        for (acked, is_done) in [(1014, true), (last, true), (last + 1, false)] {
            let (served, _) = serve(sample(continues), 4096, |mut target| async move {
                target.says(PSYNC).await;
                target.gets_everything().await;
                target.says(&ack(acked)).await;
                target
            })
            .await;
            let Some(error) = served.err() else {
                assert!(is_done, "{acked} of {last}");
                continue;
            };
            assert!(!is_done, "{acked} of {last}: {error}");
            assert!(
                matches!(error, ServeError::Diverged { acked: found, expected: Offset(1014) } if found == Offset(acked)),
                "{error}"
            );
            assert!(!error.is_transient());
        }
    }
}

#[tokio::test]
async fn an_acknowledgement_from_before_the_end_of_the_payload_does_not_count() {
    let (served, ()) = serve(sample(true), 4096, |mut target| async move {
        target.says(PSYNC).await;
        target.says(&ack(1014)).await;
        target.gets_everything().await;
    })
    .await;
    assert!(matches!(
        served.err().unwrap(),
        ServeError::Closed(Phase::Applying)
    ));
}

#[tokio::test]
async fn a_target_that_hangs_up_is_told_with_how_far_it_had_come() {
    let (served, ()) = serve(sample(true), 16, |mut target| async move {
        target.says(PSYNC).await;
        target.gets(b"+FULLRESYNC").await;
    })
    .await;
    let error = served.err().unwrap();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("snapshot"), "{error}");

    let (served, ()) = serve(sample(true), 16, |mut target| async move {
        target.says(b"PING\r\n").await;
        target.gets(b"+PONG\r\n").await;
    })
    .await;
    assert!(matches!(
        served.err().unwrap(),
        ServeError::Closed(Phase::Handshake)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_hangs_is_given_up() {
    // It asks, and then reads nothing: the connection holds 16 bytes.
    let (served, _target) = serve(sample(true), 16, |mut target| async move {
        let (asked, _) = PSYNC.split_at(16);
        target.says(asked).await;
        target.says(&PSYNC[16..]).await;
        target
    })
    .await;
    let error = served.err().unwrap();
    assert!(
        matches!(error, ServeError::Stalled { seconds: 120, .. }),
        "{error}"
    );

    // It never asks.
    let (served, _target) = serve(sample(true), 16, |target| async move { target }).await;
    let error = served.err().unwrap();
    assert!(
        matches!(error, ServeError::Stalled { seconds: 30, .. }),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_target_that_loads_for_long_is_waited_for_as_long_as_it_sends_newlines() {
    let (served, ()) = serve(sample(false), 4096, |mut target| async move {
        target.says(PSYNC).await;
        target.gets_everything().await;
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            target.says(b"\n").await;
        }
        target.says(&ack(1014)).await;
    })
    .await;
    served.unwrap();
}

#[tokio::test]
async fn damage_on_the_way_ends_the_connection_and_names_the_object() {
    let damaged = || {
        let error = ArchiveError::Missing {
            object: "log/x".into(),
        };
        stream::iter([
            Ok(Bytes::from_static(b"*1\r\n")),
            Err(RecoveryError::from(error)),
        ])
        .boxed()
    };
    let offer = replayed(false, 6, damaged());
    let (served, rest) = serve(offer, 4096, |mut target| async move {
        target.says(PSYNC).await;
        let mut rest = Vec::new();
        target.0.read_to_end(&mut rest).await.unwrap();
        rest
    })
    .await;
    let error = served.err().unwrap();
    assert!(error.to_string().contains("log/x is missing"), "{error}");
    assert!(
        rest.ends_with(b"*1\r\n"),
        "what came before was sent, and nothing invented after it"
    );

    let short = replayed(false, 7, content(&[FEED]));
    let (served, ()) = serve(short, 4096, |mut target| async move {
        target.says(PSYNC).await;
        let mut rest = Vec::new();
        target.0.read_to_end(&mut rest).await.unwrap();
    })
    .await;
    assert!(matches!(
        served.err().unwrap(),
        ServeError::Length {
            what: "snapshot",
            ..
        }
    ));
}

#[tokio::test]
async fn one_that_comes_too_early_is_told_that_we_load() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let mut target = Target(theirs);
    let conversation = async move {
        target.says(b"PING\r\n").await;
        target
            .gets(b"-LOADING backfeed waits for the store\r\n")
            .await;
    };
    let (refused, ()) = tokio::join!(
        refuse_replica(ours, None, "waits for the store"),
        conversation
    );
    refused.unwrap();
}

/// The header with its mark, the snapshot, and the mark.
async fn gets_marked(target: &mut Target) {
    target
        .gets(format!("+FULLRESYNC {} 1000\r\n", "cd".repeat(20)).as_bytes())
        .await;
    target.gets(b"$EOF:").await;
    let mut mark = [0; MARK_LEN];
    target.0.read_exact(&mut mark).await.unwrap();
    target.gets(b"\r\nREDIS!").await;
    target.gets(&mark).await;
}

#[tokio::test]
async fn behind_a_snapshot_of_unknown_length_nothing_is_sent() {
    for (continues, buffer) in [(true, 1), (false, 7), (true, 4096), (false, 4096)] {
        let (served, mut target) =
            serve(rebuilt(continues, true), buffer, |mut target| async move {
                target.says(b"REPLCONF capa eof\r\n").await;
                target.gets(b"+OK\r\n").await;
                target.says(PSYNC).await;
                gets_marked(&mut target).await;
                target.says(b"\n\n").await; // it loads
                target.says(&ack(1000)).await;
                target
            })
            .await;
        let mut caught_up = served.unwrap();
        assert_eq!(
            (caught_up.end(), caught_up.held()),
            (Offset(1000), Some(&counts()))
        );
        let rest = async {
            let mut rest = Vec::new();
            target.0.shutdown().await.unwrap();
            target.0.read_to_end(&mut rest).await.unwrap();
            rest
        };
        let (held, rest) = tokio::join!(
            async {
                let held = caught_up.hold().await;
                drop(caught_up);
                held
            },
            rest
        );
        held.unwrap();
        assert_eq!(rest, b"", "{continues}");
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_made_to_its_end_has_no_mark() {
    let (served, rest) = serve(rebuilt(true, false), 4096, |mut target| async move {
        target.says(PSYNC).await;
        let mut rest = Vec::new();
        target.0.read_to_end(&mut rest).await.unwrap();
        rest
    })
    .await;
    let ServeError::Content(error) = served.err().unwrap() else {
        panic!("the content failed");
    };
    assert!(matches!(
        *error,
        RestoreError::Rebuild(RebuildError::Memory { .. })
    ));
    assert!(rest.ends_with(b"\r\nREDIS!"), "{rest:?}");
}

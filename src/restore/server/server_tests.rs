#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use redis_protocol::resp2::decode::decode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::{Request, restore};
use super::*;
use crate::config::Dest;
use crate::recovery::RecoveryTarget;
use crate::recovery::testing::{Sample, at, feed, id};

/// What a server answers on its n-th connection (from 0): nothing closes the connection.
type Answer = dyn Fn(usize, &[String]) -> Option<String> + Send + Sync;

/// A server of our own, and what it was asked.
struct Fake {
    source: Source,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    async fn start(answer: Arc<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = format!("redis://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, count) = (Arc::clone(&asked), AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let n = count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(converse(stream, n, Arc::clone(&answer), Arc::clone(&log)));
            }
        });
        Self {
            source: source.parse().unwrap(),
            asked,
        }
    }

    fn was_asked(&self, name: &str) -> bool {
        let asked = self.asked.lock().unwrap();
        asked.iter().any(|command| command.starts_with(name))
    }

    fn sets(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let sets = asked
            .iter()
            .filter_map(|command| command.strip_prefix("CONFIG SET "));
        sets.map(str::to_owned).collect()
    }
}

async fn converse(
    mut stream: TcpStream,
    n: usize,
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<String>>>,
) {
    let mut inbox = Vec::new();
    while stream.read_buf(&mut inbox).await.is_ok_and(|read| read > 0) {
        while let Ok(Some((OwnedFrame::Array(parts), length))) = decode(&inbox) {
            inbox.drain(..length);
            let words: Vec<String> = parts.iter().filter_map(frame_text).collect();
            log.lock().unwrap().push(words.join(" "));
            let Some(reply) = answer(n, &words) else {
                return;
            };
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    }
}

fn info(version: &str, more: &str) -> String {
    let text = format!("redis_version:{version}\r\nrole:master\r\n{more}");
    format!("${}\r\n{text}\r\n", text.len())
}

/// What an empty server of this version answers; it knows all commands.
fn usual(version: &str, words: &[String]) -> String {
    match words[0].as_str() {
        "INFO" => info(version, ""),
        "CLIENT" => "$0\r\n\r\n".to_owned(),
        "COMMAND" => {
            let known = "*1\r\n$1\r\nx\r\n".repeat(words.len() - 2);
            format!("*{}\r\n{known}", words.len() - 2)
        }
        _ => "*0\r\n".to_owned(),
    }
}

/// A snapshot at 1000 and a log, by Redis 7.0.15.
async fn sample() -> Sample {
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 5_000).await;
    sample
        .log(id(1), at(1000, 0), &feed(&["SET a 1"]), &[])
        .await;
    sample
}

fn request(fake: &Fake) -> Request {
    crate::restore::tests::request(Dest::Server(fake.source.clone()), RecoveryTarget::Latest)
}

#[tokio::test]
async fn a_target_older_than_a_writer_of_the_log_is_refused_unless_forced() {
    let sample = sample().await;
    // The same feed, continued by a newer server.
    let end = 1000 + feed(&["SET a 1"]).len() as u64;
    let newer = Sample {
        version: "7.2.6",
        ..sample
    };
    newer.history(id(2), Some((id(1), end))).await;
    newer.log(id(2), at(end, 0), &feed(&["SET b 2"]), &[]).await;
    let fake = Fake::start(Arc::new(|_, words: &[String]| Some(usual("7.0.15", words)))).await;

    let to_newest = request(&fake);
    let error = restore(&newer.archive, &to_newest, &()).await.unwrap_err();
    let text = error.to_string();
    for part in [
        "is Redis 7.0.15",
        "written by Redis 7.2.6",
        "at offset 1000",
    ] {
        assert!(error.is_refusal() && text.contains(part), "{text}");
    }
    let dry = |request: Request| Request {
        dry_run: true,
        ..request
    };
    let forced = dry(Request {
        force: true,
        ..request(&fake)
    });
    restore(&newer.archive, &forced, &()).await.unwrap();
    // Before the newer server came, and as the error says.
    for recovery_target in [RecoveryTarget::Offset(end), RecoveryTarget::Offset(1000)] {
        let earlier = dry(Request {
            recovery_target,
            ..request(&fake)
        });
        restore(&newer.archive, &earlier, &()).await.unwrap();
    }
    assert!(!fake.was_asked("REPLICAOF"));
}

#[tokio::test]
async fn what_has_changed_while_everything_was_read_is_found_on_a_new_connection() {
    let sample = sample().await;
    for (changed, reason) in [
        ("db0:keys=7,expires=0,avg_ttl=0\r\n", "holds 7 keys"),
        ("cluster_enabled:1\r\n", "cluster mode"),
        ("role:slave\r\nmaster_host:h\r\n", "is a replica of h"),
    ] {
        let answer = move |n, words: &[String]| {
            Some(match words[0].as_str() {
                "INFO" if n > 0 => info("7.0.15", changed),
                _ => usual("7.0.15", words),
            })
        };
        let fake = Fake::start(Arc::new(answer)).await;
        let continued = Request {
            continue_history: true,
            ..request(&fake)
        };
        let error = restore(&sample.archive, &continued, &()).await.unwrap_err();
        assert!(error.is_refusal(), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!fake.was_asked("REPLICAOF"));
    }
}

#[tokio::test]
async fn the_log_is_not_sealed_when_the_port_is_taken() {
    let sample = sample().await;
    let fake = Fake::start(Arc::new(|_, words: &[String]| Some(usual("7.0.15", words)))).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut continued = Request {
        continue_history: true,
        ..request(&fake)
    };
    continued.listen.listen = Some(taken.local_addr().unwrap());
    let error = restore(&sample.archive, &continued, &()).await.unwrap_err();
    assert!(matches!(error, RestoreError::Listen { .. }), "{error}");
    let catalog = sample.archive.catalog().await.unwrap();
    let end = sample.archive.log_end(&catalog, id(1)).await.unwrap();
    assert_eq!(end.sealed, None);
}

#[tokio::test]
async fn a_lost_answer_to_replicaof_is_told_as_what_it_may_mean() {
    let sample = sample().await;
    for (reply, may_follow) in [(None, true), (Some("-NOPERM no\r\n"), false)] {
        let answer = move |_, words: &[String]| match words[0].as_str() {
            "REPLICAOF" => reply.map(str::to_owned),
            _ => Some(usual("7.0.15", words)),
        };
        let fake = Fake::start(Arc::new(answer)).await;
        let error = restore(&sample.archive, &request(&fake), &())
            .await
            .unwrap_err();
        let text = error.to_string();
        assert_eq!(
            matches!(error, RestoreError::LeftFollowing { .. }),
            may_follow,
            "{text}"
        );
        assert_eq!(
            text.contains("redis-cli REPLICAOF NO ONE"),
            may_follow,
            "{text}"
        );
    }
}

#[tokio::test]
async fn the_setting_of_a_restore_is_put_back_whatever_comes_of_it() {
    let sample = sample().await;
    let set = "repl-diskless-load on-empty-db";
    let put_back = "repl-diskless-load disabled";
    for (value, may_set, wanted) in [
        ("disabled", true, &[set, put_back][..]),
        ("disabled", false, &[set]),
        ("swapdb", true, &[]),
        ("on-empty-db", true, &[]),
    ] {
        let answer = move |_, words: &[String]| {
            let texts: Vec<&str> = words.iter().map(String::as_str).collect();
            Some(match texts[..] {
                ["CONFIG", "GET", "repl-diskless-load"] => {
                    format!(
                        "*2\r\n$18\r\nrepl-diskless-load\r\n${}\r\n{value}\r\n",
                        value.len()
                    )
                }
                ["CONFIG", "SET", ..] if may_set => "+OK\r\n".to_owned(),
                ["CONFIG", "SET", ..] | ["REPLICAOF", ..] => "-NOPERM no\r\n".to_owned(),
                _ => usual("7.0.15", words),
            })
        };
        let fake = Fake::start(Arc::new(answer)).await;
        let error = restore(&sample.archive, &request(&fake), &())
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("REPLICAOF with: NOPERM"),
            "{error}"
        );
        assert_eq!(fake.sets(), wanted, "{value} {may_set}");
    }
}

#[tokio::test]
async fn the_setting_is_put_back_if_the_link_is_lost_with_the_answer() {
    let sample = sample().await;
    let answer = move |_, words: &[String]| {
        let texts: Vec<&str> = words.iter().map(String::as_str).collect();
        match texts[..] {
            ["CONFIG", "GET", "repl-diskless-load"] => {
                Some("*2\r\n$18\r\nrepl-diskless-load\r\n$8\r\ndisabled\r\n".to_owned())
            }
            ["CONFIG", "SET", _, "on-empty-db"] => None,
            ["CONFIG", "SET", ..] => Some("+OK\r\n".to_owned()),
            _ => Some(usual("7.0.15", words)),
        }
    };
    let fake = Fake::start(Arc::new(answer)).await;
    let restored = restore(&sample.archive, &request(&fake), &()).await;
    assert!(restored.is_err());
    let wanted = [
        "repl-diskless-load on-empty-db",
        "repl-diskless-load disabled",
    ];
    assert_eq!(fake.sets(), wanted);
}

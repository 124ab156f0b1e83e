#![allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Answers by script: the start of a command, in upper case, and the reply to it. Whatever is not there is unknown.
struct Fake {
    port: u16,
    replies: Arc<Mutex<Vec<(String, String)>>>,
}

impl Fake {
    async fn start(replies: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let owned = replies
            .iter()
            .map(|(command, reply)| ((*command).to_owned(), (*reply).to_owned()));
        let replies = Arc::new(Mutex::new(owned.collect()));
        let script = Arc::clone(&replies);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(converse(client, Arc::clone(&script)));
            }
        });
        Self { port, replies }
    }

    /// A Sentinel that names a master, as of an epoch.
    async fn sentinel(master: u16, epoch: &str, others: &[u16]) -> Self {
        let others: Vec<String> = others
            .iter()
            .map(|port| array(&["ip", "127.0.0.1", "port", &port.to_string()]))
            .collect();
        Self::start(&[
            (
                "SENTINEL GET-MASTER-ADDR-BY-NAME SHOP",
                &array(&["127.0.0.1", &master.to_string()]),
            ),
            (
                "SENTINEL MASTER SHOP",
                &array(&["name", "shop", "config-epoch", epoch]),
            ),
            (
                "SENTINEL SENTINELS SHOP",
                &format!("*{}\r\n{}", others.len(), others.concat()),
            ),
        ])
        .await
    }

    async fn server(role: &str) -> Self {
        Self::start(&[("ROLE", &array(&[role, "0"]))]).await
    }

    /// Says nothing at all.
    async fn mute() -> Self {
        Self::start(&[("", "")]).await
    }

    fn says(&self, command: &str, reply: &str) {
        let mut replies = self.replies.lock().unwrap();
        replies.insert(0, (command.to_owned(), reply.to_owned()));
    }
}

async fn converse(client: TcpStream, script: Arc<Mutex<Vec<(String, String)>>>) {
    let mut client = BufReader::new(client);
    while let Some(command) = command(&mut client).await {
        let reply = {
            let script = script.lock().unwrap();
            let found = script
                .iter()
                .find(|(start, _)| command.starts_with(start.as_str()));
            found.map_or("-ERR unknown command\r\n".to_owned(), |(_, reply)| {
                reply.clone()
            })
        };
        if client.get_mut().write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Its words, in upper case, with blanks between.
async fn command(client: &mut BufReader<TcpStream>) -> Option<String> {
    async fn number(client: &mut BufReader<TcpStream>) -> Option<usize> {
        let mut line = String::new();
        client.read_line(&mut line).await.ok()?;
        line.get(1..)?.trim_end().parse().ok()
    }
    let mut words = Vec::new();
    for _ in 0..number(client).await? {
        let mut word = vec![0; number(client).await?];
        client.read_exact(&mut word).await.ok()?;
        client.read_exact(&mut [0; 2]).await.ok()?;
        words.push(String::from_utf8(word).unwrap().to_ascii_uppercase());
    }
    Some(words.join(" "))
}

fn array(words: &[&str]) -> String {
    let bulk = |word: &&str| format!("${}\r\n{word}\r\n", word.len());
    format!(
        "*{}\r\n{}",
        words.len(),
        words.iter().map(bulk).collect::<String>()
    )
}

fn finder(sentinels: &[&Fake]) -> Finder {
    let hosts: Vec<String> = sentinels
        .iter()
        .map(|of| format!("127.0.0.1:{}", of.port))
        .collect();
    Finder::new(
        format!("redis+sentinel://{}/shop", hosts.join(","))
            .parse()
            .unwrap(),
    )
}

/// A port that nobody listens on.
async fn dead() -> Fake {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    Fake {
        port,
        replies: Arc::default(),
    }
}

#[tokio::test]
async fn the_latest_failover_counts_and_not_the_first_answer() {
    let (old, new) = (Fake::server("master").await, Fake::server("master").await);
    // Cut off since before the failover, as the old master is, which still says that it is one.
    let stale = Fake::sentinel(old.port, "4", &[]).await;
    let fresh = Fake::sentinel(new.port, "5", &[]).await;
    for sentinels in [[&stale, &fresh], [&fresh, &stale]] {
        assert_eq!(finder(&sentinels).master().await.unwrap().port, new.port);
    }
    // When the new master is away, the old one is still no master.
    let fresh = Fake::sentinel(dead().await.port, "5", &[]).await;
    let error = finder(&[&stale, &fresh]).master().await.unwrap_err();
    assert!(
        matches!(error, SentinelError::Server { .. }) && !error.is_permanent(),
        "{error}"
    );
}

#[tokio::test]
async fn where_epochs_are_not_told_the_server_decides_by_its_role() {
    let (replica, master) = (Fake::server("slave").await, Fake::server("master").await);
    let [late, right] = [
        Fake::sentinel(replica.port, "7", &[]).await,
        Fake::sentinel(master.port, "7", &[]).await,
    ];
    for of in [&late, &right] {
        of.says("SENTINEL MASTER SHOP", "-NOPERM no permission\r\n");
        of.says("SENTINEL SENTINELS SHOP", "-NOPERM no permission\r\n");
    }
    assert_eq!(
        finder(&[&late, &right]).master().await.unwrap().port,
        master.port
    );
    let error = finder(&[&late]).master().await.unwrap_err();
    let says = format!("is 127.0.0.1:{}, but it is slave", replica.port);
    assert!(
        error.to_string().contains(&says) && !error.is_permanent(),
        "{error}"
    );
}

#[tokio::test]
async fn a_role_is_told_by_role_or_by_info_or_taken_as_it_comes() {
    let server = Fake::start(&[("ROLE", "-NOPERM no permission\r\n")]).await;
    let sentinel = Fake::sentinel(server.port, "1", &[]).await;
    let info = |role: &str| format!("${}\r\nrole:{role}\r\n", role.len() + 5);
    server.says("INFO", &info("slave"));
    let error = finder(&[&sentinel]).master().await.unwrap_err();
    assert!(error.to_string().contains("a replica of"), "{error}");
    server.says("INFO", &info("master"));
    finder(&[&sentinel]).master().await.unwrap();
    server.says("INFO", "-NOPERM no permission\r\n");
    finder(&[&sentinel]).master().await.unwrap();
    server.says("ROLE", "-LOADING loading\r\n");
    assert!(finder(&[&sentinel]).master().await.is_err());
}

#[tokio::test]
async fn sentinels_that_are_away_are_named_and_remembered_others_asked() {
    let [one, two] = [dead().await, dead().await];
    let mut nobody = finder(&[&one, &two]);
    let error = nobody.master().await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("127.0.0.1:{}", one.port))
            && text.contains(&format!("127.0.0.1:{}", two.port)),
        "{text}"
    );
    assert!(!error.is_permanent() && !error.is_unknown_name());

    let master = Fake::server("master").await;
    let other = Fake::sentinel(master.port, "1", &[]).await;
    let first = Fake::sentinel(master.port, "1", &[other.port]).await;
    let mut finder = finder(&[&first]);
    finder.master().await.unwrap();
    first.says("SENTINEL", "-ERR gone mad\r\n");
    assert_eq!(finder.master().await.unwrap().port, master.port);
    assert_eq!(finder.others.len(), 1);
}

#[tokio::test]
async fn one_that_hangs_delays_nobody() {
    let master = Fake::server("master").await;
    let (mute, right) = (
        Fake::mute().await,
        Fake::sentinel(master.port, "1", &[]).await,
    );
    let begun = Instant::now();
    finder(&[&mute, &right]).master().await.unwrap();
    assert!(begun.elapsed() < SENTINEL_TIMEOUT, "{:?}", begun.elapsed());
    let error = finder(&[&mute]).master().await.unwrap_err();
    assert!(
        error.to_string().contains("no answer within 3 s"),
        "{error}"
    );
}

#[tokio::test]
async fn an_unknown_name_is_told_with_those_that_are_known() {
    let masters = format!("*1\r\n{}", array(&["name", "store", "ip", "10.0.0.1"]));
    let script = [
        ("SENTINEL GET-MASTER-ADDR-BY-NAME", "*-1\r\n"),
        ("SENTINEL MASTERS", &masters),
    ];
    let sentinel = Fake::start(&script).await;
    let error = finder(&[&sentinel, &dead().await])
        .master()
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("`shop`") && text.contains("(they know store)"),
        "{text}"
    );
    assert!(error.is_unknown_name() && !error.is_permanent());
}

#[tokio::test]
async fn a_wrong_password_at_all_of_them_is_for_good() {
    let noauth = [("SENTINEL", "-NOAUTH Authentication required.\r\n")];
    let [one, two] = [Fake::start(&noauth).await, Fake::start(&noauth).await];
    let error = finder(&[&one, &two]).master().await.unwrap_err();
    assert!(error.is_permanent(), "{error}");
    let error = finder(&[&one, &dead().await]).master().await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
}

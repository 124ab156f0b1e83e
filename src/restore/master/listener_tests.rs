#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::config::ListenTls;

const PSYNC: &[u8] = b"PSYNC ? -1\r\n";

/// The files of a certificate that is its own authority, and how a client trusts that.
struct Certified {
    home: TempDir,
    connector: TlsConnector,
}

impl Certified {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        let connector = Self::sign(&home);
        Self { home, connector }
    }

    fn sign(home: &TempDir) -> TlsConnector {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(home.path().join("cert"), cert.pem()).unwrap();
        std::fs::write(home.path().join("key"), signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    fn admission(&self) -> Admission {
        Admission {
            tls: Some(ListenTls {
                cert: self.home.path().join("cert"),
                key: self.home.path().join("key"),
                client_ca: None,
            }),
            ..Admission::default()
        }
    }
}

async fn listener(admission: Admission) -> Listener {
    let listen = Listen::new("127.0.0.1:0".parse().unwrap(), admission).unwrap();
    Listener::bind(&listen, "it is starting").await.unwrap()
}

trait Socket: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

async fn connect(
    listener: &Listener,
    tls: Option<&TlsConnector>,
) -> std::io::Result<Box<dyn Socket>> {
    let tcp = TcpStream::connect(listener.addr()).await?;
    Ok(match tls {
        None => Box::new(tcp),
        Some(tls) => Box::new(tls.connect("127.0.0.1".try_into().unwrap(), tcp).await?),
    })
}

#[tokio::test]
async fn connections_that_say_nothing_are_in_nobodys_way() {
    let certified = Certified::new();
    for (admission, tls) in [
        (Admission::default(), None),
        (certified.admission(), Some(&certified.connector)),
    ] {
        let mut listener = listener(admission).await;
        listener.open();
        let mut silent = Vec::new();
        for number in 0..HANDSHAKES_AT_ONCE.saturating_mul(2) {
            let mut stream = TcpStream::connect(listener.addr()).await.unwrap();
            if number.is_multiple_of(2) && tls.is_some() {
                // The beginning of a handshake.
                stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
            }
            silent.push(stream);
        }
        let mut target = connect(&listener, tls).await.unwrap();
        target.write_all(PSYNC).await.unwrap();
        target.flush().await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_secs(8), listener.waiting()).await;
        assert!(waiting.is_ok(), "the target was kept out");
        // The ones that had been there for the longest had to go.
        let oldest = silent.first_mut().unwrap().read(&mut [0; 8]).await;
        // A reset is an end, too: what it had sent was not read.
        let gone = oldest.as_ref().is_ok_and(|length| *length == 0)
            || oldest
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        assert!(gone, "{oldest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_hangs_is_ended_and_told() {
    let certified = Certified::new();
    let mut listener = listener(certified.admission()).await;
    listener.open();
    let mut silent = TcpStream::connect(listener.addr()).await.unwrap();
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0);
    let problem = loop {
        match listener.problem() {
            Some(problem) => break problem,
            None => tokio::task::yield_now().await,
        }
    };
    assert!(
        problem.ends_with("did not finish the TLS handshake within 10 s"),
        "{problem}"
    );
}

async fn problem_of(listener: &mut Listener, tls: Option<&TlsConnector>, says: &[u8]) -> String {
    listener.open();
    if let Ok(mut stream) = connect(listener, tls).await {
        stream.write_all(says).await.unwrap();
        // An alert of TLS may come first.
        while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
    }
    for _ in 0..1000 {
        if let Some(problem) = listener.problem() {
            return problem;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nothing was noted");
}

#[tokio::test]
async fn files_are_read_for_every_connection() {
    let certified = Certified::new();
    let mut listener = listener(certified.admission()).await;
    let key = certified.home.path().join("key");
    // A rotation, seen half done.
    let old_key = std::fs::read(&key).unwrap();
    let rotated = Certified::sign(&certified.home);
    let new_key = std::fs::read(&key).unwrap();
    std::fs::write(&key, old_key).unwrap();
    let problem = problem_of(&mut listener, Some(&rotated), b"").await;
    assert!(
        problem.contains("no server can be admitted: the pair of `listen_tls_cert` and `listen_tls_key` cannot be used"),
        "{problem}"
    );
    std::fs::remove_file(&key).unwrap();
    let problem = problem_of(&mut listener, Some(&rotated), b"").await;
    assert!(problem.contains("`listen_tls_key`"), "{problem}");
    assert!(problem.contains("No such file"), "{problem}");

    std::fs::write(&key, new_key).unwrap();
    listener.open();
    let mut target = connect(&listener, Some(&rotated)).await.unwrap();
    target.write_all(PSYNC).await.unwrap();
    target.flush().await.unwrap();
    listener.waiting().await;
    assert_eq!(listener.problem(), None);
    assert!(
        connect(&listener, Some(&certified.connector))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn who_speaks_otherwise_is_told_with_the_settings_to_change() {
    let certified = Certified::new();
    let mut secure = listener(certified.admission()).await;
    let problem = problem_of(&mut secure, None, b"*1\r\n$4\r\nPING\r\n").await;
    for part in [
        "from 127.0.0.1 ",
        "did not use TLS",
        "tls-replication yes",
        "`listen_tls_cert`",
    ] {
        assert!(problem.contains(part), "{problem}");
    }
    let mut plain = listener(Admission::default()).await;
    let problem = problem_of(&mut plain, Some(&certified.connector), b"").await;
    for part in ["speaks TLS", "tls-replication no", "`listen_tls_cert`"] {
        assert!(problem.contains(part), "{problem}");
    }
    let problem = problem_of(&mut secure, Some(&Certified::new().connector), b"").await;
    assert!(problem.contains("it refuses our certificate"), "{problem}");
}

#[tokio::test]
async fn who_lacks_the_password_is_told_without_it_even_while_the_door_is_closed() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("password");
    let mut listener = listener(Admission {
        user: Some("replica".to_owned()),
        password_file: Some(file.clone()),
        tls: None,
    })
    .await;
    std::fs::write(&file, "sesame").unwrap();
    for (says, wanted) in [
        (
            &b"AUTH replica barley\r\nQUIT\r\n"[..],
            "it gave a wrong user or password",
        ),
        (b"AUTH sesame\r\n", "it gave a wrong user or password"),
        (b"PING\r\nPSYNC ? -1\r\n", "it gave no password"),
    ] {
        for closed in [true, false] {
            listener.open();
            if closed {
                listener.entry.set(Some("it is closed".to_owned()));
            }
            let mut stream = connect(&listener, None).await.unwrap();
            stream.write_all(says).await.unwrap();
            stream.shutdown().await.unwrap();
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            let problem = loop {
                match listener.problem() {
                    Some(problem) => break problem,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            for part in [
                wanted,
                "masterauth",
                "`listen_password_file`",
                "masteruser to replica",
            ] {
                assert!(problem.contains(part), "{problem}");
            }
            assert!(
                !problem.contains("sesame") && !problem.contains("barley"),
                "{problem}"
            );
        }
    }
}

#[test]
fn a_reason_is_news_once_until_somebody_was_let_in() {
    let problems = Problems::default();
    let count = || problems.0.lock().unwrap().reasons.len();
    let peer = |host: u8| SocketAddr::from(([10, 0, 0, host], 4000));
    for _ in 0..3 {
        problems.note(peer(1), &ServeError::SpeaksTls.into());
        problems.note(peer(1), &ServeError::NoPassword { user: None }.into());
    }
    assert_eq!(count(), 2);
    for host in 0..=255 {
        problems.note(peer(host), &ServeError::SpeaksTls.into());
    }
    assert!(count() <= REASONS);
    problems.solved();
    assert_eq!(count(), 0);
    let probe = std::io::ErrorKind::UnexpectedEof;
    problems.note(peer(1), &AcceptError::Gone(probe.into()).into());
    assert_eq!(count(), 0);
}

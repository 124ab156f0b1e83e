//! `rediss://`: real servers that speak TLS, certificates of every kind.

use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::backfeed::{Output, PATIENCE};
use crate::support::certs::{Authority, Signed};
use crate::support::server::Builder;
use crate::support::{Backfeed, Server, Version, free_port, on, restored, run, wait_until};

/// A server that speaks TLS at one port, and without it at the other, which the test itself uses.
struct Secure {
    server: Server,
    port: u16,
}

impl Secure {
    /// `clients`: the authority of the client certificates that it demands.
    fn start(builder: Builder, own: &Signed, clients: Option<&Authority>) -> Self {
        let port = free_port();
        let mut builder = builder
            .arg("rdbcompression", "no")
            .arg("tls-port", port)
            .arg("tls-cert-file", &own.cert)
            .arg("tls-key-file", &own.key)
            .arg(
                "tls-auth-clients",
                if clients.is_some() { "yes" } else { "no" },
            );
        if let Some(authority) = clients {
            builder = builder.arg("tls-ca-cert-file", authority.file());
        }
        Self {
            server: builder.start(),
            port,
        }
    }

    fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port)
    }

    /// The feed goes by TLS, as the server sees it.
    fn assert_feeds_by_tls(&self) {
        if self.server.version() == Version::Redis60 {
            return; // It does not say by which port a client came.
        }
        let replicas = self.server.text(&["CLIENT", "LIST", "TYPE", "replica"]);
        let by_tls = format!("laddr=127.0.0.1:{} ", self.port);
        let lines: Vec<&str> = replicas.lines().filter(|line| !line.is_empty()).collect();
        assert!(
            !lines.is_empty() && lines.iter().all(|line| line.contains(&by_tls)),
            "{replicas}"
        );
    }
}

fn store(home: &TempDir) -> String {
    format!("file://{}/bucket", home.path().display())
}

fn capture_and_restore(version: Version) {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let own = authority.sign(&["127.0.0.1", "localhost"]);
    let client = authority.sign(&["backfeed"]);
    let ca = authority.file();
    let tls = [
        "--tls-ca",
        &ca,
        "--tls-cert",
        &client.cert,
        "--tls-key",
        &client.key,
    ];
    let source = Secure::start(Server::builder(version), &own, Some(&authority));
    source.server.fill_with_records("base");
    let mut backfeed = Backfeed::backup(&source.url(), &store(&home), &tls);
    backfeed.wait_following();
    source.assert_feeds_by_tls();
    source.server.fill_with_records("log");
    backfeed.wait_captured(&source.server);
    // It goes on by TLS, and acknowledges by it.
    backfeed.restart();
    backfeed.wait_following();
    let mut connection = source.server.connect();
    redis::cmd("SET")
        .arg("last")
        .arg("one")
        .exec(&mut connection)
        .unwrap();
    let stored: u64 = redis::cmd("WAIT")
        .arg(1)
        .arg(20_000)
        .query(&mut connection)
        .unwrap();
    assert_eq!(stored, 1);
    assert_eq!(backfeed.metric("backfeed_full_syncs_total") as u64, 0);
    assert_eq!(backfeed.sigterm(), 0);

    let target = Secure::start(Server::builder(version), &own, Some(&authority));
    let (archive, to) = (store(&home), target.url());
    let output = run(&[&["restore", "--store", &archive, "--to", &to], &tls[..]].concat());
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(target.server.debug_digest(), source.server.debug_digest());
    assert_eq!(target.server.info("replication")["role"], "master");
}
on!(capture_and_restore: redis_60 = Redis60, redis_70 = Redis70, redis_86 = Redis86, valkey_81 = Valkey81, valkey_91 = Valkey91);

fn sidecar(version: Version) {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let own = authority.sign(&["127.0.0.1"]);
    let ca = authority.file();
    let listen = free_port();
    let waiting = Server::builder(version).replicaof("127.0.0.1", listen);
    let mut redis = Secure::start(waiting, &own, None);
    let sidecar = Backfeed::sidecar(&redis.url(), &store(&home), listen, &["--tls-ca", &ca]);
    let wait_open = |redis: &Secure| {
        wait_until("Redis is a master", PATIENCE, || {
            redis.server.info("replication")["role"] == "master"
        });
        sidecar.wait_captured(&redis.server);
    };
    wait_open(&redis);
    redis.server.fill_with_records("guest");
    sidecar.wait_captured(&redis.server);
    redis.assert_feeds_by_tls();
    let before = redis.server.debug_digest();
    redis.server.kill9();
    redis.server.restart();
    wait_open(&redis);
    assert_eq!(redis.server.debug_digest(), before);
    redis.assert_feeds_by_tls();
}
on!(sidecar: redis_86 = Redis86, valkey_91 = Valkey91);

/// The server gets another authority's certificate, and later we get that authority: one process goes through it all.
fn rotation(version: Version) {
    let home = TempDir::new().unwrap();
    let old = Authority::new(home.path(), "old");
    let new = Authority::new(home.path(), "new");
    // What is written while nobody is connected must fit, or a full sync is right.
    let server = Server::builder(version).arg("repl-backlog-size", "16mb");
    let source = Secure::start(server, &old.sign(&["127.0.0.1"]), None);
    let trusted = home.path().join("trusted.crt");
    fs::copy(old.file(), &trusted).unwrap();
    let trusted_file = trusted.to_str().unwrap();
    let backfeed = Backfeed::backup(&source.url(), &store(&home), &["--tls-ca", trusted_file]);
    backfeed.wait_following();
    source.server.fill_with_records("before");

    let next = new.sign(&["127.0.0.1"]);
    // Both at once, as a certificate and another's key do not go together.
    source.server.cmd(&[
        "CONFIG",
        "SET",
        "tls-cert-file",
        &next.cert,
        "tls-key-file",
        &next.key,
    ]);
    source.server.cmd(&["CLIENT", "KILL", "TYPE", "replica"]);
    backfeed.wait("it says what is wrong", |view| {
        view["last_error"]
            .as_str()
            .is_some_and(|error| error.contains("no trusted authority signed"))
    });
    fs::copy(new.file(), &trusted).unwrap();
    source.server.fill_with_records("after");
    backfeed.wait_captured(&source.server);
    assert_eq!(backfeed.metric("backfeed_full_syncs_total") as u64, 1);
    assert!(backfeed.metric("backfeed_partial_syncs_total") >= 1.0);
    let copy = restored(version, &store(&home));
    assert_eq!(copy.debug_digest(), source.server.debug_digest());
}
on!(rotation: redis_70 = Redis70, valkey_91 = Valkey91);

/// One full sync, or why there is none.
fn once(url: &str, home: &TempDir, more: &[&str]) -> Output {
    let store = store(home);
    run(&[
        &["backup", "--once", "--redis", url, "--store", &store],
        more,
    ]
    .concat())
}

#[track_caller]
fn refused(output: &Output, wanted: &str) {
    assert_eq!(output.code, 4, "{output:?}");
    let said = output
        .stderr
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(said.contains(wanted), "wanted: {wanted}\n{said}");
}

fn wrong_certificates(version: Version) {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let stranger = Authority::new(home.path(), "stranger");
    let ca = authority.file();
    let trust = ["--tls-ca", ca.as_str()];

    let good = Secure::start(
        Server::builder(version),
        &authority.sign(&["127.0.0.1"]),
        None,
    );
    let foreign = stranger.file();
    refused(
        &once(&good.url(), &home, &["--tls-ca", &foreign]),
        "no trusted authority signed the server's certificate. Give the certificate of its authority with --tls-ca",
    );
    // The system's authorities have not signed it either.
    refused(&once(&good.url(), &home, &[]), "with --tls-ca (without it,");

    let named = authority.sign(&["redis.internal"]);
    let named = Secure::start(Server::builder(version), &named, None);
    refused(&once(&named.url(), &home, &trust), "with --tls-server-name");
    let by_name = ["--tls-server-name", "redis.internal"];
    let output = once(&named.url(), &home, &[trust, by_name].concat());
    assert_eq!(output.code, 0, "{output:?}");

    let expired = authority.sign_until(&["127.0.0.1"], 2021);
    let expired = Secure::start(Server::builder(version), &expired, None);
    refused(
        &once(&expired.url(), &home, &trust),
        "certificate has expired",
    );
}
on!(wrong_certificates: redis_86 = Redis86, valkey_91 = Valkey91);

fn client_certificates(version: Version) {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let stranger = Authority::new(home.path(), "stranger");
    let ca = authority.file();
    let own = authority.sign(&["127.0.0.1"]);
    for protocols in ["TLSv1.3", "TLSv1.2"] {
        let builder = Server::builder(version).arg("tls-protocols", protocols);
        let server = Secure::start(builder, &own, Some(&authority));
        refused(
            &once(&server.url(), &home, &["--tls-ca", &ca]),
            "--tls-cert and --tls-key",
        );
        for (signed, wanted) in [
            (
                stranger.sign(&["backfeed"]),
                "refuses our client certificate",
            ),
            (
                authority.sign_until(&["backfeed"], 2021),
                "refuses our client certificate",
            ),
        ] {
            let ours = [
                "--tls-ca",
                &ca,
                "--tls-cert",
                &signed.cert,
                "--tls-key",
                &signed.key,
            ];
            refused(&once(&server.url(), &home, &ours), wanted);
        }
        let right = authority.sign(&["backfeed"]);
        let ours = [
            "--tls-ca",
            &ca,
            "--tls-cert",
            &right.cert,
            "--tls-key",
            &right.key,
        ];
        let output = once(&server.url(), &home, &ours);
        assert_eq!(output.code, 0, "{protocols}: {output:?}");
    }
}
on!(client_certificates: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// One side speaks TLS and the other does not.
fn only_one_side(version: Version) {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let ca = authority.file();
    let server = Secure::start(
        Server::builder(version),
        &authority.sign(&["127.0.0.1"]),
        None,
    );
    let plain_to_tls = format!("redis://127.0.0.1:{}", server.port);
    refused(&once(&plain_to_tls, &home, &[]), "rediss://");
    let tls_to_plain = format!("rediss://{}", server.server.addr());
    let output = once(&tls_to_plain, &home, &["--tls-ca", &ca]);
    refused(&output, "this port does not speak TLS, write redis://");
}
on!(only_one_side: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// Without `--tls-ca`, the system's authorities are trusted: here a system that has ours among them.
#[test]
fn the_authorities_of_the_system_are_the_default() {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let server = Secure::start(
        Server::builder(Version::Redis86),
        &authority.sign(&["127.0.0.1"]),
        None,
    );
    let output = Command::new(env!("CARGO_BIN_EXE_backfeed"))
        .args([
            "backup",
            "--once",
            "--redis",
            &server.url(),
            "--store",
            &store(&home),
        ])
        .env("SSL_CERT_FILE", authority.file())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn files_that_cannot_be_used_are_told_before_anything_else() {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let (ca, signed) = (authority.file(), authority.sign(&["backfeed"]));
    let other = Authority::new(home.path(), "other").sign(&["backfeed"]);
    let empty = home.path().join("empty");
    fs::write(&empty, "secret-looking text").unwrap();
    let empty = empty.to_str().unwrap();
    let missing = home.path().join("missing.crt").display().to_string();
    let not_found = format!("--tls-ca {missing}: No such file");
    for (flags, code, wanted) in [
        (vec!["--tls-ca", &missing], 2, not_found.as_str()),
        (vec!["--tls-ca", empty], 2, "there is no certificate in it"),
        (
            vec!["--tls-ca", &signed.key],
            2,
            "there is no certificate in it",
        ),
        (
            vec!["--tls-cert", &signed.cert, "--tls-key", empty],
            2,
            "there is no private key in it",
        ),
        (vec!["--tls-cert", &signed.cert], 2, "--tls-key <FILE>"),
        (
            vec!["--tls-server-name", "no name"],
            2,
            "neither a host name nor an address",
        ),
    ] {
        // Port 1: nobody is asked.
        let output = once("rediss://127.0.0.1:1", &home, &flags);
        assert_eq!(output.code, code, "{flags:?}: {output:?}");
        assert!(output.stderr.contains(wanted), "{flags:?}: {output:?}");
        assert!(!output.stderr.contains("secret-looking"), "{output:?}");
    }
    let output = once("redis://127.0.0.1:1", &home, &["--tls-ca", &ca]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("Write rediss://"), "{output:?}");

    let server = Secure::start(
        Server::builder(Version::Redis86),
        &authority.sign(&["127.0.0.1"]),
        None,
    );
    let mixed = [
        "--tls-ca",
        &ca,
        "--tls-cert",
        &signed.cert,
        "--tls-key",
        &other.key,
    ];
    refused(
        &once(&server.url(), &home, &mixed),
        "the pair of --tls-cert and --tls-key cannot be used",
    );
}

/// Data that a target with `tls-replication` would never get is refused before anything is touched.
#[test]
fn a_target_that_wants_tls_of_its_master_is_refused() {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let own = authority.sign(&["127.0.0.1"]);
    let ca = authority.file();
    let source = Secure::start(Server::builder(Version::Redis86), &own, None);
    source.server.cmd(&["SET", "a", "b"]);
    let output = once(&source.url(), &home, &["--tls-ca", &ca]);
    assert_eq!(output.code, 0, "{output:?}");
    let builder = Server::builder(Version::Redis86).arg("tls-replication", "yes");
    let builder = builder.arg("tls-ca-cert-file", &ca);
    let target = Secure::start(builder, &own, None);
    let (archive, to) = (store(&home), target.url());
    let restore = ["restore", "--store", &archive, "--to", &to, "--tls-ca", &ca];
    refused(&run(&restore), "CONFIG SET tls-replication no");
    target
        .server
        .cmd(&["CONFIG", "SET", "tls-replication", "no"]);
    let output = run(&restore);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(target.server.text(&["GET", "a"]), "b");
}

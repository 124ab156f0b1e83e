//! TLS on what backfeed serves as a master: real servers with `tls-replication`, as replicas of a sidecar and of a restore.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::certs::{Authority, Signed};
use crate::support::server::Builder;
use crate::support::{Backfeed, Server, Version, free_port, on, run, wait_until};

/// A Redis that speaks TLS to its master, and to nobody else.
fn by_tls(builder: Builder, own: &Signed, trusts: &Authority) -> Builder {
    builder
        .arg("rdbcompression", "no")
        .arg("tls-replication", "yes")
        .arg("tls-cert-file", &own.cert)
        .arg("tls-key-file", &own.key)
        .arg("tls-ca-cert-file", trusts.file())
}

fn store(home: &TempDir) -> String {
    format!("file://{}/bucket", home.path().display())
}

/// Our files, at paths that stay while they are rotated.
struct Ours {
    cert: PathBuf,
    key: PathBuf,
}

impl Ours {
    fn of(home: &TempDir, signed: &Signed) -> Self {
        let ours = Self {
            cert: home.path().join("ours.crt"),
            key: home.path().join("ours.key"),
        };
        ours.rotate(signed);
        ours
    }

    fn rotate(&self, signed: &Signed) {
        fs::copy(&signed.cert, &self.cert).unwrap();
        fs::copy(&signed.key, &self.key).unwrap();
    }

    fn flags(&self) -> [&str; 4] {
        [
            "--listen-tls-cert",
            self.cert.to_str().unwrap(),
            "--listen-tls-key",
            self.key.to_str().unwrap(),
        ]
    }
}

fn is_master(redis: &Server) -> bool {
    redis.info("replication")["role"] == "master"
}

fn wait_open(redis: &Server, sidecar: &Backfeed) {
    wait_until("Redis is a master", PATIENCE, || is_master(redis));
    sidecar.wait_captured(redis);
}

/// The sidecar says it in one line of its log, and Redis stays a replica.
#[track_caller]
fn wait_told(redis: &Server, sidecar: &Backfeed, words: &str) {
    wait_until(&format!("it says: {words}"), PATIENCE, || {
        sidecar.log().contains(words)
    });
    // Redis comes every second.
    let tries = || redis.log().matches(" <-> REPLICA sync started").count();
    let before = tries();
    wait_until("Redis has tried again", PATIENCE, || tries() >= before + 3);
    let log = sidecar.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(words)).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(!is_master(redis));
    sidecar.wait("/readyz has it too", |view| {
        view["last_error"]
            .as_str()
            .is_some_and(|error| error.contains(words))
    });
}

/// Boot, data, `kill -9`, boot: all by TLS, with user and password.
fn restored_at_boot(version: Version) {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let ours = Ours::of(&home, &authority.sign(&["backfeed"]));
    let password = home.path().join("password");
    fs::write(&password, "open sesame\n").unwrap();
    let listen = free_port();
    let waiting = Server::builder(version)
        .replicaof("127.0.0.1", listen)
        .arg("masterauth", "\"open sesame\"")
        .arg("masteruser", "guest");
    let mut redis = by_tls(waiting, &authority.sign(&["redis"]), &authority).start();
    let login = [
        "--listen-password-file",
        password.to_str().unwrap(),
        "--listen-user",
        "guest",
    ];
    let more = [&ours.flags()[..], &login].concat();
    let mut sidecar = Backfeed::sidecar(&redis.url(), &store(&home), listen, &more);
    wait_open(&redis, &sidecar);
    redis.fill_with_records("guest");
    sidecar.wait_captured(&redis);
    let before = redis.debug_digest();
    for sidecar_dies_too in [false, true] {
        redis.kill9();
        if sidecar_dies_too {
            sidecar.kill9();
        }
        redis.restart();
        if sidecar_dies_too {
            sidecar.restart();
        }
        wait_open(&redis, &sidecar);
        assert_eq!(redis.debug_digest(), before);
    }
    assert_eq!(redis.info("stats")["sync_full"], "0");

    // The password is rotated while it runs: first here, then there.
    fs::write(&password, "open barley").unwrap();
    redis.kill9();
    redis.restart();
    wait_told(
        &redis,
        &sidecar,
        "it gave a wrong user or password. Set masterauth on Redis to the password in `listen_password_file`, and masteruser \
         to guest",
    );
    redis.cmd(&["CONFIG", "SET", "masterauth", "open barley"]);
    redis.cmd(&["CONFIG", "SET", "masteruser", "somebody"]);
    let refused = redis.log().matches("WRONGPASS").count();
    wait_until("the user counts too", PATIENCE, || {
        redis.log().matches("WRONGPASS").count() >= refused + 2
    });
    assert!(!is_master(&redis));
    redis.cmd(&["CONFIG", "SET", "masteruser", "guest"]);
    wait_open(&redis, &sidecar);
    assert_eq!(redis.debug_digest(), before);
    for secret in ["sesame", "barley"] {
        assert!(!sidecar.log().contains(secret));
        assert!(!sidecar.readyz().unwrap().to_string().contains(secret));
    }
}
on!(restored_at_boot: redis_60 = Redis60, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// Each side's certificate and authority are wrong first: one process goes through it all, without a restart.
fn certificates(version: Version) {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let stranger = Authority::new(home.path(), "stranger");
    let ours = Ours::of(&home, &authority.sign(&["backfeed"]));
    let clients = home.path().join("clients.crt");
    fs::copy(stranger.file(), &clients).unwrap();
    let demands = ["--listen-tls-client-ca", clients.to_str().unwrap()];
    let listen = free_port();
    let waiting = Server::builder(version).replicaof("127.0.0.1", listen);
    let mut redis = by_tls(waiting, &authority.sign(&["redis"]), &stranger).start();
    let more = [&ours.flags()[..], &demands].concat();
    let sidecar = Backfeed::sidecar(&redis.url(), &store(&home), listen, &more);

    wait_told(
        &redis,
        &sidecar,
        "it refuses our certificate (UnknownCA): `listen_tls_cert` must be",
    );
    redis.cmd(&["CONFIG", "SET", "tls-ca-cert-file", &authority.file()]);
    wait_told(
        &redis,
        &sidecar,
        "no authority in `listen_tls_client_ca` signed its certificate",
    );
    fs::copy(authority.file(), &clients).unwrap();
    wait_open(&redis, &sidecar);
    redis.fill_with_records("guest");
    sidecar.wait_captured(&redis);
    let before = redis.debug_digest();

    // Ours are rotated, to another authority, while it runs. For a moment, they do not go together.
    let next = stranger.sign(&["backfeed"]);
    fs::copy(&next.cert, &ours.cert).unwrap();
    redis.kill9();
    redis.restart();
    redis.cmd(&["CONFIG", "SET", "tls-ca-cert-file", &stranger.file()]);
    wait_told(
        &redis,
        &sidecar,
        "the pair of `listen_tls_cert` and `listen_tls_key` cannot be used",
    );
    ours.rotate(&next);
    wait_open(&redis, &sidecar);
    assert_eq!(redis.debug_digest(), before);
    assert_eq!(redis.info("stats")["sync_full"], "0");
}
on!(certificates: redis_60 = Redis60, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// A client certificate that has run out; and, in both versions of TLS, the right one.
fn client_certificates(version: Version) {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let (ca, old, right) = (
        authority.file(),
        authority.sign_until(&["redis"], 2021),
        authority.sign(&["redis"]),
    );
    let ours = Ours::of(&home, &authority.sign(&["backfeed"]));
    let more = [&ours.flags()[..], &["--listen-tls-client-ca", &ca]].concat();
    for protocols in ["TLSv1.3", "TLSv1.2"] {
        let listen = free_port();
        let waiting = Server::builder(version)
            .replicaof("127.0.0.1", listen)
            .arg("tls-protocols", protocols);
        let redis = by_tls(waiting, &old, &authority).start();
        let archive = format!("{}/{protocols}", store(&home));
        let sidecar = Backfeed::sidecar(&redis.url(), &archive, listen, &more);
        wait_told(&redis, &sidecar, "its certificate has expired");
        redis.cmd(&[
            "CONFIG",
            "SET",
            "tls-cert-file",
            &right.cert,
            "tls-key-file",
            &right.key,
        ]);
        wait_open(&redis, &sidecar);
    }
}
on!(client_certificates: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// One side speaks TLS and the other does not.
fn only_one_side(version: Version) {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let ours = Ours::of(&home, &authority.sign(&["backfeed"]));
    for (redis_does, words) in [
        (
            false,
            "the client did not use TLS, which `listen_tls_cert` requires. Set `tls-replication yes`",
        ),
        (
            true,
            "it speaks TLS, and this listener does not. Give backfeed a certificate (`listen_tls_cert`",
        ),
    ] {
        let listen = free_port();
        let waiting = Server::builder(version).replicaof("127.0.0.1", listen);
        let redis = by_tls(waiting, &authority.sign(&["redis"]), &authority).start();
        let (yes, no) = (
            ["CONFIG", "SET", "tls-replication", "yes"],
            ["CONFIG", "SET", "tls-replication", "no"],
        );
        let flags = ours.flags();
        let more = if redis_does { &[][..] } else { &flags[..] };
        redis.cmd(if redis_does { &yes } else { &no });
        let archive = format!("{}/{redis_does}", store(&home));
        let sidecar = Backfeed::sidecar(&redis.url(), &archive, listen, more);
        wait_told(&redis, &sidecar, words);
        redis.cmd(if redis_does { &no } else { &yes });
        wait_open(&redis, &sidecar);
    }
}
on!(only_one_side: redis_60 = Redis60, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// Half-open handshakes, one of them begun, and a Redis that is restored all the same.
#[test]
fn handshakes_that_hang_keep_nobody_waiting() {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let ours = Ours::of(&home, &authority.sign(&["backfeed"]));
    let listen = free_port();
    let waiting = Server::builder(Version::Redis70).replicaof("127.0.0.1", listen);
    let mut redis = by_tls(waiting, &authority.sign(&["redis"]), &authority).start();
    let sidecar = Backfeed::sidecar(&redis.url(), &store(&home), listen, &ours.flags());
    wait_open(&redis, &sidecar);
    redis.kill9();
    let hang = |count: usize| -> Vec<TcpStream> {
        let connect = |number| {
            let mut stream = TcpStream::connect(("127.0.0.1", listen)).unwrap();
            if number % 2 == 0 {
                stream.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
            }
            stream
        };
        (0..count).map(connect).collect()
    };
    let mut hanging = hang(50);
    redis.restart();
    hanging.extend(hang(50));
    let begun = std::time::Instant::now();
    wait_open(&redis, &sidecar);
    // The first of them are still there, so it was not that they had timed out.
    assert!(begun.elapsed().as_secs() < 9, "{:?}", begun.elapsed());
    for mut stream in hanging {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let ended = stream.read(&mut [0; 8]);
        assert!(!ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }
}

/// 100 MB to serve: there is time to be killed in the middle.
#[test]
fn a_sidecar_killed_while_it_serves_serves_again() {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let ours = Ours::of(&home, &authority.sign(&["backfeed"]));
    let listen = free_port();
    let waiting = Server::builder(Version::Valkey91).replicaof("127.0.0.1", listen);
    let mut redis = by_tls(waiting, &authority.sign(&["redis"]), &authority).start();
    redis.cmd(&["REPLICAOF", "NO", "ONE"]);
    redis.cmd(&["DEBUG", "POPULATE", "100000", "key", "1000"]);
    let mut sidecar = Backfeed::sidecar(&redis.url(), &store(&home), listen, &ours.flags());
    wait_open(&redis, &sidecar);
    redis.cmd(&["SET", "last", "1"]);
    sidecar.wait_captured(&redis);
    let digest = redis.debug_digest();
    redis.kill9();
    redis.restart();
    for _ in 0..2 {
        wait_until("Redis receives its data", PATIENCE, || {
            let info = redis.info("replication");
            let read = info.get("master_sync_read_bytes");
            read.is_some_and(|read| read.parse::<u64>().unwrap() > 10_000_000)
        });
        sidecar.restart();
        assert!(!is_master(&redis));
    }
    wait_open(&redis, &sidecar);
    assert_eq!(redis.debug_digest(), digest);
}

/// With a password alone, beyond this host: allowed, with one warning.
#[test]
fn what_crosses_a_network_in_the_clear_is_warned_of() {
    let home = TempDir::new().unwrap();
    let password = home.path().join("password");
    fs::write(&password, "sesame").unwrap();
    let listen = format!("0.0.0.0:{}", free_port());
    let archive = store(&home);
    let sidecar = Backfeed::start(&[
        "sidecar",
        "--redis",
        "redis://127.0.0.1:1",
        "--store",
        &archive,
        "--listen",
        &listen,
        "--listen-password-file",
        password.to_str().unwrap(),
    ]);
    sidecar.wait("it waits for Redis", |view| {
        view["phase"] == "waiting_for_redis"
    });
    let log = sidecar.log();
    assert_eq!(log.matches("unencrypted").count(), 1, "{log}");
    assert!(log.contains("`listen_tls_cert`"), "{log}");
}

/// A target with `tls-replication`: restored over TLS, refused with the setting to change where both sides do not agree.
fn restore(version: Version) {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let (ca, own) = (authority.file(), authority.sign(&["127.0.0.1"]));
    let ours = Ours::of(&home, &authority.sign(&["backfeed"]));
    let source = Server::start(version, &[]);
    source.fill_with_records("base");
    let archive = store(&home);
    let mut backup = Backfeed::backup(&source.url(), &archive, &[]);
    backup.wait_following();
    source.fill_with_records("log");
    backup.wait_captured(&source);
    assert_eq!(backup.sigterm(), 0);

    let tls_port = free_port();
    let builder = by_tls(Server::builder(version), &own, &authority)
        .arg("tls-port", tls_port)
        .arg("tls-auth-clients", "no")
        .arg("masterauth", "sesame");
    let target = builder.start();
    let password = home.path().join("password");
    fs::write(&password, "sesame").unwrap();
    let to = format!("rediss://127.0.0.1:{tls_port}");
    let restore = |more: &[&str]| {
        let base = [
            "restore",
            "--store",
            &archive,
            "--to",
            &to,
            "--tls-ca",
            &ca,
            "--listen-password-file",
            password.to_str().unwrap(),
        ];
        run(&[&base[..], more].concat())
    };
    let refused = |more: &[&str], words: &[&str]| {
        let output = restore(more);
        assert_eq!(output.code, 4, "{output:?}");
        for word in words.iter().chain(&["Nothing was changed there"]) {
            assert!(output.stderr.contains(word), "{word}: {output:?}");
        }
        assert!(is_master(&target));
    };
    refused(
        &[],
        &[
            "has tls-replication set",
            "(--listen-tls-cert, --listen-tls-key)",
            "CONFIG SET tls-replication no",
        ],
    );
    let flags = ours.flags();
    let as_user = [&flags[..], &["--listen-user", "replica"]].concat();
    refused(
        &as_user,
        &[
            "has another masteruser than --listen-user. Run there: redis-cli CONFIG SET masteruser replica",
        ],
    );
    target.cmd(&["CONFIG", "SET", "masteruser", "replica"]);
    target.cmd(&["CONFIG", "SET", "tls-replication", "no"]);
    refused(
        &as_user,
        &[
            "has tls-replication not set",
            "CONFIG SET tls-replication yes",
            "leave out --listen-tls-cert",
        ],
    );
    target.cmd(&["CONFIG", "SET", "tls-replication", "yes"]);
    let demanding = [&as_user[..], &["--listen-tls-client-ca", &ca]].concat();
    let output = restore(&demanding);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(target.debug_digest(), source.debug_digest());
    assert!(is_master(&target));
}
on!(restore: redis_60 = Redis60, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// What is wrong with a target that comes and is refused is the error in the end, not that it had not come.
#[test]
fn a_restore_that_cannot_let_its_target_in_says_why() {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let stranger = Authority::new(home.path(), "stranger");
    let ours = Ours::of(&home, &stranger.sign(&["backfeed"]));
    let source = Server::start(Version::Redis86, &[]);
    source.cmd(&["SET", "a", "b"]);
    let archive = store(&home);
    let once = [
        "backup",
        "--once",
        "--redis",
        &source.url(),
        "--store",
        &archive,
    ];
    assert_eq!(run(&once).code, 0);
    let target = by_tls(
        Server::builder(Version::Redis86),
        &authority.sign(&["redis"]),
        &authority,
    )
    .start();
    let (to, flags) = (target.url(), ours.flags());
    let output = run(&[&["restore", "--store", &archive, "--to", &to][..], &flags].concat());
    assert_eq!(output.code, 4, "{output:?}");
    for words in [
        "it was not admitted within 60 s",
        "it refuses our certificate",
        "Force the restore again",
    ] {
        assert!(output.stderr.contains(words), "{output:?}");
    }
}

#[test]
fn files_that_cannot_be_used_are_told_before_anything_else() {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let (ca, signed) = (authority.file(), authority.sign(&["backfeed"]));
    let other = Authority::new(home.path(), "other").sign(&["backfeed"]);
    let empty = home.path().join("empty");
    fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    let missing = home.path().join("missing.crt").display().to_string();
    let not_found = format!("--listen-tls-client-ca {missing}: No such file");
    let pair = [
        "--listen-tls-cert",
        signed.cert.as_str(),
        "--listen-tls-key",
        signed.key.as_str(),
    ];
    let with = |more: &[&'static str], file: &str| -> Vec<String> {
        let words = pair.iter().copied().chain(more.iter().copied());
        words.chain([file]).map(str::to_owned).collect()
    };
    let flags =
        |words: &[&str]| -> Vec<String> { words.iter().map(|&word| word.to_owned()).collect() };
    for (flags, wanted) in [
        (flags(&pair[..2]), "--listen-tls-key <FILE>"),
        (flags(&pair[2..]), "--listen-tls-cert <FILE>"),
        (
            flags(&["--listen-tls-client-ca", &ca]),
            "--listen-tls-cert <FILE>",
        ),
        (
            flags(&["--listen-user", "x"]),
            "--listen-password-file <FILE>",
        ),
        (
            with(&["--listen-tls-client-ca"], empty),
            "there is no certificate in it",
        ),
        (
            with(&["--listen-tls-client-ca"], &missing),
            not_found.as_str(),
        ),
        (
            with(&["--listen-password-file"], empty),
            "--listen-password-file: password file",
        ),
        (
            flags(&[
                "--listen-tls-cert",
                &signed.cert,
                "--listen-tls-key",
                &other.key,
            ]),
            "the pair of --listen-tls-cert and --listen-tls-key cannot be used",
        ),
        (
            flags(&["--listen-tls-cert", &signed.cert, "--listen-tls-key", empty]),
            "there is no private key in it",
        ),
        // Encrypted, but open to everybody.
        (
            with(&["--listen"], "0.0.0.0:6390"),
            "require certificates (--listen-tls-client-ca)",
        ),
    ] {
        for verb in [
            &["sidecar", "--redis", "redis://127.0.0.1:1"][..],
            &["restore", "--to", "redis://127.0.0.1:1"],
        ] {
            // A restore may find another address, and checks that later.
            if verb[0] == "restore" && flags.contains(&"--listen".to_owned()) {
                continue;
            }
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let output = run(&[verb, &["--store", "file:///tmp/never-made"], &flags].concat());
            assert_eq!(output.code, 2, "{flags:?}: {output:?}");
            assert!(output.stderr.contains(wanted), "{flags:?}: {output:?}");
        }
    }
}

//! The program on Google Cloud Storage (an emulator), whose requests meet faults.

use serde_json::Value;

use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::{
    Backfeed, Env, Fault, Gcs, Server, Version, free_port, list_with, run_with, wait_until,
};

const STORE: &str = "gs://bucket/some/prefix";

fn env(gcs: &Gcs) -> Env {
    vec![("STORAGE_EMULATOR_HOST", gcs.host())]
}

fn backup(gcs: &Gcs, redis: &Server) -> Backfeed {
    let args = ["backup", "--redis", &redis.url(), "--store", STORE];
    Backfeed::start_with(env(gcs), &args)
}

fn check_restore(gcs: &Gcs, redis: &Server) {
    let copy = Server::start(redis.version(), &[]);
    let args = ["restore", "--store", STORE, "--to", &copy.url()];
    let output = run_with(&env(gcs), &args);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(copy.debug_digest(), redis.debug_digest());
}

#[test]
fn a_permission_that_is_missing_is_told_once_and_until_it_is_given() {
    let gcs = Gcs::start("bucket");
    let redis = Server::start(Version::Redis70, &[]);
    let backfeed = backup(&gcs, &redis);
    backfeed.wait_captured(&redis);
    assert_eq!(redis.set_and_wait(0, "before", 1, 20_000), 1);
    gcs.fault("POST", "/upload/", usize::MAX, Fault::Status(403, None));
    assert_eq!(redis.set_and_wait(0, "meanwhile", 1, 100), 0);
    backfeed.wait("it is reported", |view| {
        let told = view["store_error"].as_str().unwrap_or_default();
        told.contains("storage.objects.create") && told.contains("gs://bucket/some/prefix/")
    });
    assert_eq!(backfeed.get("/readyz").unwrap().0, 503);
    assert_eq!(backfeed.metric("backfeed_store_failing"), 1.0);
    wait_until("it tries again", std::time::Duration::from_secs(30), || {
        backfeed.metric("backfeed_store_errors_total") > 3.0
    });
    assert_eq!(backfeed.log().matches("storage.objects.create").count(), 1);
    gcs.heal();
    assert_eq!(redis.set_and_wait(0, "after", 1, 30_000), 1);
    backfeed.wait("it is over", |view| view["store_error"] == Value::Null);
    assert_eq!(backfeed.get("/readyz").unwrap().0, 200);
    check_restore(&gcs, &redis);
}

#[test]
fn a_snapshot_goes_up_in_parts_through_an_outage() {
    let mut gcs = Gcs::start("bucket");
    let redis = Server::start(Version::Redis70, &[]);
    redis.fill_with_noise(60);
    // An answer is lost, then the store dies for a while, and cuts what comes meanwhile.
    gcs.fault("POST", "/upload/", 1, Fault::Lost(503));
    let backfeed = backup(&gcs, &redis);
    let parts = |gcs: &Gcs| {
        gcs.requests()
            .iter()
            .filter(|it| it.contains(".parts"))
            .count()
    };
    wait_until(
        "some parts are sent",
        std::time::Duration::from_secs(60),
        || parts(&gcs) >= 3,
    );
    gcs.kill();
    gcs.fault("POST", "/upload/", 2, Fault::CutRequest);
    wait_until("it tries again", std::time::Duration::from_secs(60), || {
        gcs.pending() == 0
    });
    gcs.restart();
    backfeed.wait_captured(&redis);
    assert_eq!(redis.info("stats")["sync_full"], "1", "{}", backfeed.log());
    assert_eq!(redis.set_and_wait(0, "after", 1, 30_000), 1);
    check_restore(&gcs, &redis);
    let listing = list_with(&env(&gcs), STORE);
    assert_eq!(listing["problems"], serde_json::json!([]), "{listing:#}");
}

#[test]
fn what_cannot_work_ends_with_what_to_do() {
    let gcs = Gcs::start("bucket");
    let redis = Server::start(Version::Redis70, &[]);
    let once = |store: &str| {
        let args = [
            "backup",
            "--once",
            "--redis",
            &redis.url(),
            "--store",
            store,
        ];
        let output = run_with(&env(&gcs), &args);
        assert_eq!(output.code, 3, "{output:?}");
        output.stderr
    };
    let told = once("gs://no-such-bucket/x");
    assert!(told.contains("Check that the bucket exists"), "{told}");
    let told = once("gs://BUCKET/x");
    assert!(told.contains("write gs://BUCKET or"), "{told}");
    gcs.fault("GET", "/o?", 1, Fault::Status(403, None));
    let told = once(STORE);
    assert!(told.contains("storage.objects.list"), "{told}");
    gcs.fault("GET", "/o", 1, Fault::Status(401, None));
    let told = once(STORE);
    assert!(told.contains("credentials are not accepted"), "{told}");
}

fn once(gcs: &Gcs, redis: &Server) {
    let args = [
        "backup",
        "--once",
        "--redis",
        &redis.url(),
        "--store",
        STORE,
    ];
    let output = run_with(&env(gcs), &args);
    assert_eq!(output.code, 0, "{output:?}");
}

#[test]
fn list_and_restore_only_read() {
    let gcs = Gcs::start("bucket");
    let redis = Server::start(Version::Redis70, &[]);
    redis.cmd(&["SET", "k", "v"]);
    once(&gcs, &redis);
    let before = gcs.requests().len();
    for method in ["POST", "PUT", "DELETE"] {
        gcs.fault(method, "/", usize::MAX, Fault::Status(403, None));
    }
    check_restore(&gcs, &redis);
    let listing = list_with(&env(&gcs), STORE);
    assert_eq!(listing["problems"], serde_json::json!([]), "{listing:#}");
    for line in gcs.requests().split_off(before) {
        assert!(line.starts_with("GET "), "{line}");
    }
}

#[test]
fn a_start_without_the_permission_to_create_is_told_though_the_archive_is_there() {
    let gcs = Gcs::start("bucket");
    let redis = Server::start(Version::Redis70, &[]);
    once(&gcs, &redis);
    gcs.fault("POST", "/upload/", usize::MAX, Fault::Status(403, None));
    // `backup` ends: nobody waits for it.
    let mut backfeed = backup(&gcs, &redis);
    assert_eq!(backfeed.wait_exit(), 3, "{}", backfeed.log());
    let log = backfeed.log();
    assert!(log.contains("storage.objects.create"), "{log}");
    assert!(log.contains(&format!("{STORE}/archive.json")), "{log}");
    // `sidecar` goes on trying: a Redis waits for it.
    let listen = free_port();
    let sidecar = Backfeed::sidecar_with(env(&gcs), &redis.url(), STORE, listen, &[]);
    sidecar.wait("it is reported", |view| {
        let told = view["store_error"].as_str().unwrap_or_default();
        told.contains("storage.objects.create") && view["phase"] == "waiting_for_store"
    });
    wait_until("it tries again", PATIENCE, || {
        sidecar.metric("backfeed_store_errors_total") > 3.0
    });
    assert_eq!(sidecar.get("/readyz").unwrap().0, 503);
    assert_eq!(sidecar.metric("backfeed_store_failing"), 1.0);
    let log = sidecar.log();
    let told = |line: &&str| line.contains("WARN") && line.contains("storage.objects.create");
    assert_eq!(log.lines().filter(told).count(), 1, "{log}");
    gcs.heal();
    sidecar.wait_captured(&redis);
    assert_eq!(sidecar.get("/readyz").unwrap().0, 200);
    assert_eq!(sidecar.metric("backfeed_store_failing"), 0.0);
}

#[test]
fn a_store_that_lets_objects_be_written_over_is_refused() {
    let gcs = Gcs::start("bucket");
    let redis = Server::start(Version::Redis70, &[]);
    gcs.fault("POST", "/upload/", usize::MAX, Fault::Overwrites);
    let listen = format!("127.0.0.1:{}", free_port());
    let url = redis.url();
    for verb in [&["backup"][..], &["sidecar", "--listen", &listen]] {
        let args = [verb, &["--redis", &url, "--store", STORE]].concat();
        let output = run_with(&env(&gcs), &args);
        assert_eq!(output.code, 3, "{output:?}");
        let told = format!("{STORE} cannot hold an archive: it let archive.json be created");
        assert!(output.stderr.contains(&told), "{output:?}");
    }
}

#[test]
fn keys_class_and_payer_reach_the_requests_of_all_verbs() {
    const KMS: &str = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
    let gcs = Gcs::start("bucket");
    let redis = Server::start(Version::Redis70, &[]);
    redis.cmd(&["SET", "k", "v"]);
    let mut env = env(&gcs);
    env.push(("BACKFEED_KMS_KEY", KMS.to_owned()));
    env.push(("BACKFEED_STORAGE_CLASS", "coldline".to_owned()));
    env.push(("BACKFEED_USER_PROJECT", "payer-1".to_owned()));
    let copy = Server::start(Version::Redis70, &[]);
    for args in [
        &["backup", "--once", "--redis", &redis.url()][..],
        &["restore", "--to", &copy.url()],
        &["list"],
    ] {
        let output = run_with(&env, &[args, &["--store", STORE]].concat());
        assert_eq!(output.code, 0, "{output:?}");
    }
    for seen in gcs.seen() {
        assert_eq!(seen.header("x-goog-user-project"), Some("payer-1"));
        if seen.line.starts_with("POST") {
            assert!(seen.line.contains("kmsKeyName=projects%2Fp%2F"), "{seen:?}");
            assert!(
                seen.body.contains(r#""storageClass":"COLDLINE""#),
                "{seen:?}"
            );
        }
    }
}

#[test]
fn a_supplied_key_is_used_by_all_verbs_and_shown_by_none() {
    const KEY: &str = "0123456789-secret-9876543210-key";
    const BASE64: &str = "MDEyMzQ1Njc4OS1zZWNyZXQtOTg3NjU0MzIxMC1rZXk=";
    let gcs = Gcs::start("bucket");
    let redis = Server::start(Version::Redis70, &[]);
    redis.cmd(&["SET", "k", "v"]);
    let home = TempDir::new().unwrap();
    let file = |name: &str, content: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let raw = file("raw", KEY);
    let base64 = file("base64", &format!("{BASE64}\n"));
    let mut said = String::new();
    for (key, rust_log) in [(&base64, ""), (&raw, "trace")] {
        let copy = Server::start(Version::Redis70, &[]);
        let mut env = env(&gcs);
        env.push(("RUST_LOG", rust_log.to_owned()));
        for args in [
            &["backup", "--once", "--redis", &redis.url()][..],
            &["restore", "--to", &copy.url()],
            &["list"],
        ] {
            let more = ["-vv", "--store", STORE, "--encryption-key-file", key];
            let output = run_with(&env, &[args, &more].concat());
            assert_eq!(output.code, 0, "{output:?}");
            said += &output.stderr;
            said += &output.stdout;
        }
        // An error of the store, and what is no key.
        gcs.fault(
            "GET",
            "/o",
            1,
            Fault::Says(400, "The provided encryption key is incorrect."),
        );
        let more = [
            "list",
            "-vv",
            "--store",
            STORE,
            "--encryption-key-file",
            key,
        ];
        let output = run_with(&env, &more);
        assert_eq!(output.code, 3, "{output:?}");
        assert!(
            output
                .stderr
                .contains("another key than the one in --encryption-key-file")
        );
        said += &output.stderr;
    }
    let wrong = file("wrong", &format!("{BASE64}{BASE64}"));
    for key in [wrong.as_str(), BASE64] {
        let args = ["list", "--store", STORE, "--encryption-key-file", key];
        let output = run_with(&env(&gcs), &args);
        assert_eq!(output.code, 2, "{output:?}");
        said += &output.stderr;
    }
    assert!(said.len() > 10_000, "it said a lot");
    let bytes = KEY.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{bytes:?}");
    for part in [&KEY[..20], &BASE64[..20], &hex[..20], &list[1..30]] {
        assert!(!said.contains(part), "{part} is shown");
    }
    let mut with_key = 0;
    for seen in gcs.seen() {
        assert!(!seen.line.contains(&BASE64[..9]), "{}", seen.line);
        with_key += usize::from(seen.header("x-goog-encryption-key") == Some(BASE64));
    }
    assert!(with_key > 10, "{with_key}");
}

#[test]
fn flags_that_cannot_be_meant_are_refused() {
    let home = TempDir::new().unwrap();
    let key = home.path().join("key");
    std::fs::write(&key, [7; 32]).unwrap();
    let key = key.to_str().unwrap();
    let kms = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
    let elsewhere = format!("file://{}", home.path().display());
    for (store, flags, says) in [
        (
            STORE,
            vec!["--kms-key", kms, "--encryption-key-file", key],
            "cannot be used with",
        ),
        (STORE, vec!["--kms-key", "k"], "write projects/PROJECT/"),
        (STORE, vec!["--storage-class", "WARM"], "NEARLINE"),
        (STORE, vec!["--user-project", "a b"], "write its id"),
        (STORE, vec!["--encryption-key-file", "/no/such"], "/no/such"),
        (
            &elsewhere,
            vec!["--kms-key", kms],
            "is only for Google Cloud Storage (gs://BUCKET/PREFIX)",
        ),
        (
            &elsewhere,
            vec!["--encryption-key-file", key],
            "is only for Google Cloud Storage (gs://BUCKET/PREFIX)",
        ),
        (
            &elsewhere,
            vec!["--storage-class", "ARCHIVE"],
            "is only for Google Cloud Storage (gs://BUCKET/PREFIX)",
        ),
        (
            &elsewhere,
            vec!["--user-project", "p"],
            "is only for Google Cloud Storage (gs://BUCKET/PREFIX)",
        ),
    ] {
        for verb in [
            &["list"][..],
            &["restore", "--to", "x.rdb"],
            &["backup", "--redis", "redis://h"],
            &["sidecar", "--redis", "redis://h"],
        ] {
            let args = [verb, &["--store", store], &flags].concat();
            let output = run_with(&Env::new(), &args);
            assert_eq!(output.code, 2, "{args:?}: {output:?}");
            assert!(output.stderr.contains(says), "{args:?}: {output:?}");
            assert!(output.stderr.contains(flags[0]), "{args:?}: {output:?}");
        }
    }
}

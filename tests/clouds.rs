//! The program on S3 and on Azure Blob Storage (emulators), whose requests meet faults.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    Backfeed, Cloud, Emulator, Env, Fault, Server, Version, free_port, list_with, run_with,
    wait_until,
};

/// Harm to the requests of one kind of service: method and a part of the target.
struct Requests {
    store: &'static str,
    part: &'static str,
    completion: (&'static str, &'static str),
    denied: &'static str,
    /// What it takes to be allowed to create.
    permission: &'static str,
}

fn requests(cloud: Cloud) -> Requests {
    match cloud {
        Cloud::Azure => Requests {
            store: "az://bucket/some/prefix",
            part: "comp=block&",
            completion: ("PUT", "comp=blocklist"),
            denied: "<Error><Code>AuthorizationPermissionMismatch</Code><Message>not you</Message></Error>",
            permission: "Storage Blob Data Contributor",
        },
        _ => Requests {
            store: "s3://bucket/some/prefix",
            part: "partNumber=",
            completion: ("POST", "?uploadId="),
            denied: "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
            permission: "s3:PutObject",
        },
    }
}

/// Captured with faults on the way, continued by a second process, restored elsewhere.
fn there_and_back(cloud: Cloud) {
    let emulator = Emulator::start_of(cloud, "bucket");
    let env: Env = emulator.environment();
    let harm = requests(cloud);
    let redis = Server::start(Version::Redis70, &[]);
    redis.fill_with_noise(30);
    emulator.fault("PUT", harm.part, 2, Fault::CutRequest);
    emulator.fault("PUT", harm.part, 1, Fault::Status(503, Some(1)));
    emulator.fault(harm.completion.0, harm.completion.1, 1, Fault::Lost(500));
    let args = ["backup", "--redis", &redis.url(), "--store", harm.store];
    let backfeed = Backfeed::start_with(env.clone(), &args);
    backfeed.wait_captured(&redis);
    assert_eq!(emulator.heal(), 0, "the snapshot went up in parts");
    assert_eq!(redis.set_and_wait(0, "before", 1, 20_000), 1);

    emulator.fault("PUT", "/log/", usize::MAX, Fault::Says(403, harm.denied));
    assert_eq!(redis.set_and_wait(0, "meanwhile", 1, 100), 0);
    backfeed.wait("it is reported", |view| {
        let told = view["store_error"].as_str().unwrap_or_default();
        told.contains(harm.permission) && told.contains(harm.store)
    });
    assert_eq!(backfeed.get("/readyz").unwrap().0, 503);
    emulator.heal();
    assert_eq!(redis.set_and_wait(0, "after", 1, 30_000), 1);
    backfeed.wait("it is over", |view| view["store_error"] == Value::Null);

    drop(backfeed);
    let second = Backfeed::start_with(env.clone(), &args);
    second.wait_captured(&redis);
    assert_eq!(redis.set_and_wait(0, "again", 1, 20_000), 1);
    assert_eq!(redis.info("stats")["sync_full"], "1", "{}", second.log());

    let copy = Server::start(redis.version(), &[]);
    emulator.fault("GET", "/base/", 1, Fault::CutAnswer(5_000_000));
    let args = ["restore", "--store", harm.store, "--to", &copy.url()];
    let output = run_with(&env, &args);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(copy.debug_digest(), redis.debug_digest());
    let listing = list_with(&env, harm.store);
    assert_eq!(listing["problems"], serde_json::json!([]), "{listing:#}");
}

#[test]
fn there_and_back_with_s3() {
    there_and_back(Cloud::S3);
}

#[test]
fn there_and_back_with_azure() {
    there_and_back(Cloud::Azure);
}

/// Two follow one server into one store: their creates meet, and one of each pair wins.
#[test]
fn two_make_one_log_on_s3() {
    let emulator = Emulator::start_of(Cloud::S3, "bucket");
    let env: Env = emulator.environment();
    let redis = Server::start(Version::Redis70, &[]);
    let store = requests(Cloud::S3).store;
    let args = ["backup", "--redis", &redis.url(), "--store", store];
    let one = Backfeed::start_with(env.clone(), &args);
    one.wait_captured(&redis);
    let two = Backfeed::start_with(env.clone(), &args);
    two.wait_captured(&redis);
    for n in 0..30 {
        assert_eq!(redis.set_and_wait(0, &format!("key{n}"), 1, 20_000), 1);
    }
    drop(one);
    assert_eq!(redis.set_and_wait(0, "last", 1, 20_000), 1);
    wait_until("the second has it all", Duration::from_secs(30), || {
        two.metric("backfeed_lag_bytes") == 0.0
    });
    let copy = Server::start(redis.version(), &[]);
    let output = run_with(&env, &["restore", "--store", store, "--to", &copy.url()]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(copy.debug_digest(), redis.debug_digest());
}

#[test]
fn a_service_that_ignores_the_condition_of_a_create_is_refused() {
    let emulator = Emulator::start_of(Cloud::S3, "bucket");
    let redis = Server::start(Version::Redis70, &[]);
    emulator.fault("PUT", "/archive.json", usize::MAX, Fault::Overwrites);
    let (url, store) = (redis.url(), requests(Cloud::S3).store);
    let listen = format!("127.0.0.1:{}", free_port());
    for verb in [&["backup"][..], &["sidecar", "--listen", &listen]] {
        let args = [verb, &["--redis", &url, "--store", store]].concat();
        let output = run_with(&emulator.environment(), &args);
        assert_eq!(output.code, 3, "{output:?}");
        let told = format!("{store} cannot hold an archive: it let archive.json be created");
        assert!(output.stderr.contains(&told), "{output:?}");
    }
}

#[test]
fn what_cannot_work_ends_with_what_to_do() {
    let emulator = Emulator::start_of(Cloud::S3, "bucket");
    let redis = Server::start(Version::Redis70, &[]);
    let once = |env: &Env, store: &str| {
        let args = [
            "backup",
            "--once",
            "--redis",
            &redis.url(),
            "--store",
            store,
        ];
        let output = run_with(env, &args);
        assert_eq!(output.code, 3, "{output:?}");
        output.stderr
    };
    let env = emulator.environment();
    let told = once(&env, "s3://no-such-bucket/x");
    assert!(told.contains("Check that the bucket exists"), "{told}");
    let told = once(&env, "s3://BUCKET/x");
    assert!(told.contains("write s3://BUCKET or"), "{told}");
    emulator.fault(
        "GET",
        "list-type=2",
        1,
        Fault::Says(403, requests(Cloud::S3).denied),
    );
    let told = once(&env, "s3://bucket/x");
    assert!(told.contains("s3:ListBucket"), "{told}");
    let elsewhere: Env = vec![("AWS_ENDPOINT_URL", "http://storage.example".to_owned())];
    let told = once(&elsewhere, "s3://bucket/x");
    assert!(told.contains("is not encrypted"), "{told}");
    let told = once(&Env::new(), "az://container/x");
    assert!(told.contains("set AZURE_STORAGE_ACCOUNT_NAME"), "{told}");
}

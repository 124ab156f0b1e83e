//! A value that cannot be followed concerns its own key: all others can be looked at and compared, and bases go on as soon as it is
//! gone.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::loaded::{LENIENT, Loaded, blob, packed, rdb};
use crate::support::backfeed::Output;
use crate::support::{Backfeed, Server, Version, list, restored, run, wait_until};

fn get(it: &Loaded, key: &str, more: &[&str]) -> Output {
    let store = it.store();
    run(&[&["get", key, "--store", &store, "--json"], more].concat())
}

fn parsed(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// `odd` was lost behind offset `known`, and `other` was set to `later` since.
fn assert_that_others_go_on(it: &Loaded, odd: &str, known: u64, why: &str) {
    let context = it.server.version();
    let other = get(it, "other", &[]);
    assert_eq!(other.code, 0, "{context}: {other:?}");
    assert_eq!(parsed(&other)["value"], "later", "{context}");
    let unknown = get(it, odd, &[]);
    assert_eq!(unknown.code, 6, "{context}: {unknown:?}");
    for part in [odd, why, &format!("after offset {known} ")] {
        assert!(
            unknown.stderr.contains(part),
            "{context}: {part} not in {unknown:?}"
        );
    }
    let (store, from) = (it.store(), format!("offset:{known}"));
    let args = [
        "diff", "--store", &store, "--from", &from, "--to", "latest", "--json",
    ];
    let output = run(&args);
    assert_eq!(output.code, 6, "{context}: {output:?}");
    assert!(
        output.stderr.contains("1 key cannot be compared"),
        "{output:?}"
    );
    let diff = parsed(&output);
    assert_eq!(
        (&diff["keys"][0]["key"], &diff["changed"]["keys"]),
        (&json!("other"), &json!(1)),
        "{context}: {diff}"
    );
    let told = &diff["unknown"][0];
    assert_eq!(
        (&told["key"], &told["since"]),
        (&json!(odd), &json!(known)),
        "{context}: {diff}"
    );
    assert!(told["why"].as_str().unwrap().contains(why), "{diff}");

    // Chosen keys: those that are known.
    let target = Server::start(it.server.version(), &[]);
    let to = target.url();
    let restore = |pattern: &str| {
        run(&[
            "restore",
            "--store",
            &store,
            "--to",
            &to,
            "--keys",
            pattern,
            "--replace",
        ])
    };
    let output = restore("oth*");
    assert_eq!(output.code, 0, "{context}: {output:?}");
    assert_eq!(target.text(&["GET", "other"]), "later");
    let output = restore("*");
    assert_eq!(output.code, 6, "{context}: {output:?}");

    // A base holds all keys or is none: it ends before.
    let consolidate = || run(&["consolidate", "--store", &store, "--json"]);
    let output = consolidate();
    assert_eq!(output.code, 0, "{context}: {output:?}");
    let report = parsed(&output);
    assert_eq!(report["to"]["offset"], known, "{context}: {report}");
    assert!(
        report["stopped"].as_str().unwrap().contains(why),
        "{report}"
    );
    let output = consolidate();
    assert_eq!(output.code, 6, "{context}: {output:?}");
}

/// As soon as it is gone, bases are made of all of the log.
fn assert_that_it_heals(it: &Loaded, lines: &[&str]) {
    it.run(lines);
    let copy = it.consolidated();
    assert_eq!(
        copy.debug_digest(),
        it.server.debug_digest(),
        "{}",
        it.server.version()
    );
}

#[test]
fn a_vector_set_takes_no_other_key_with_it() {
    for version in [Version::Redis80, Version::Redis86] {
        let it = Loaded::new(version, &rdb(9, &[]));
        let known = it.run(&["SET other early", "SADD s a"]);
        it.run(&[
            "VADD v VALUES 2 1 2 e",
            "SET other later",
            "VADD v VALUES 2 3 4 f",
        ]);
        assert_that_others_go_on(&it, "v", known, "the graph of a vector set");
        assert_that_it_heals(&it, &["DEL v", "SADD s b"]);
        // One that comes and goes in between costs nothing.
        let lines = [
            "VADD w VALUES 2 1 2 e",
            "SADD s c",
            "RENAME w v",
            "SET v 1",
            "DEL w",
        ];
        assert_that_it_heals(&it, &lines);
    }
}

/// Its members come in the order of their scores, but where is that which is no number?
#[test]
fn a_score_that_is_no_number_takes_no_other_key_with_it() {
    for version in LENIENT {
        let (rdb_version, _, zset) = packed(version);
        let odd = blob(version, &["a", "1", "b", "nan", "c", "3"]);
        let it = Loaded::new(version, &rdb(rdb_version, &[("z", zset, odd)]));
        let known = it.run(&["SET other early"]);
        it.run(&["ZADD z 2 d", "SET other later", "ZREM z a"]);
        assert_that_others_go_on(&it, "z", known, "a score is not a number");
        assert_that_it_heals(&it, &["ZADD y 1 a", "ZUNIONSTORE z 1 y"]);
    }
}

/// Servers count a field too many, and most of them crash on a request for the fields.
#[test]
fn a_wrong_count_takes_no_other_key_with_it() {
    for version in [Version::Redis70, Version::Redis86, Version::Valkey81] {
        let mut odd = blob(version, &["f", "v", "g", "w"]);
        // One byte of length, then 4 of the blob's length.
        assert_eq!(odd[5], 4);
        odd[5] = 6;
        let it = Loaded::new(version, &rdb(10, &[("h", 16, odd)]));
        let known = it.run(&["SET other early"]);
        it.run(&["HSET h f x", "SET other later"]);
        assert_that_others_go_on(&it, "h", known, "another number of elements");
        assert_that_it_heals(&it, &["DEL h"]);
    }
}

/// The log does not tell the value, but the server does: a base in the background needs no full sync for it.
#[test]
fn a_vector_set_is_asked_of_the_server() {
    for version in [Version::Redis80, Version::Redis86] {
        let home = TempDir::new().unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        let server = Server::start(version, &[]);
        let backfeed = Backfeed::backup(&server.url(), &store, &["--consolidate-every", "1s"]);
        backfeed.wait_following();
        let newest = || {
            let listing = list(&store);
            let bases = listing["histories"][0]["bases"].as_array().unwrap().clone();
            bases
                .iter()
                .map(|base| base["offset"].as_u64().unwrap())
                .max()
        };
        for round in 0..2 {
            for n in 0..1000 {
                server.cmd(&["SET", &format!("key:{n}"), &format!("{round}")]);
            }
            let element = format!("e{round}");
            server.cmd(&["VADD", "v", "VALUES", "2", "1", "2", &element]);
            server.cmd(&["PEXPIREAT", "v", "4000000000000"]);
            let mut connection = server.connect();
            let mut pipe = redis::pipe();
            pipe.cmd("SELECT").arg(3).ignore();
            pipe.cmd("VADD")
                .arg(&["w", "VALUES", "2", "3", "4", &element])
                .ignore();
            pipe.query::<()>(&mut connection).unwrap();
            let end = server.position().1;
            wait_until("a base is made of it", Duration::from_secs(60), || {
                newest() >= Some(end)
            });
        }
        backfeed.wait_captured(&server);
        assert_eq!(server.info("stats")["sync_full"], "1", "{version}");
        assert!(backfeed.log().contains("asked the server for the values"));
        let copy = restored(version, &store);
        assert_eq!(copy.debug_digest(), server.debug_digest(), "{version}");
        for ask in [
            &["VCARD", "v"][..],
            &["VEMB", "v", "e1"],
            &["PEXPIRETIME", "v"],
            &["DBSIZE"],
        ] {
            assert_eq!(copy.cmd(ask), server.cmd(ask), "{version}: {ask:?}");
        }
    }
}

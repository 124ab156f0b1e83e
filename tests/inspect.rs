//! `backfeed inspect`: what it says of a server's own RDB file, and of a base, is what the server says.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::loaded::{blob, rdb};
use crate::support::backfeed::run_reading;
use crate::support::data::{Expiries, Load, for_each_version};
use crate::support::state::quiet;
use crate::support::{Backfeed, Server, Version, run};

fn json(args: &[&str]) -> Value {
    let output = run(&[&["inspect", "--json"], args].concat());
    assert_eq!(output.code, 0, "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

for_each_version!(a_file_is_what_its_server_says);

fn a_file_is_what_its_server_says(version: Version) {
    let server = Server::start(version, &[]);
    let load = Load::start(&server, 5, Expiries::Late);
    load.wait(1500);
    load.stop();
    server.cmd(&["SET", "big:one", &"x y".repeat(100_000)]);
    server.cmd(&["CONFIG", "SET", "rdbcompression", "no"]);
    server.save();
    let file = server.dir().join("dump.rdb");
    let file = file.to_str().unwrap();
    let found = json(&[file, "--top", "3"]);

    let info = server.info("keyspace");
    assert!(info.len() > 3);
    for (db, counts) in &info {
        let field = |name: &str| {
            let mut fields = counts.split(',');
            let value = fields.find_map(|field| field.strip_prefix(name)).unwrap();
            value.parse::<u64>().unwrap()
        };
        let told = &found["databases"][db.trim_start_matches("db")];
        assert_eq!(told["keys"], field("keys="), "{db}: {found}");
        assert_eq!(told["expires"], field("expires="), "{db}: {found}");
    }
    assert_eq!(found["bytes"], fs::metadata(file).unwrap().len());
    let sum = |table: &str, field: &str| -> u64 {
        let rows = found[table].as_array().unwrap().iter();
        rows.map(|row| row[field].as_u64().unwrap()).sum()
    };
    let keys = found["keys"].as_u64().unwrap();
    assert_eq!(sum("encodings", "keys"), keys);
    let other = found["other_prefixes"]["keys"].as_u64().unwrap();
    assert_eq!(sum("prefixes", "keys") + other, keys);
    // All but the header, the selects and the like are keys.
    let bytes = found["bytes"].as_u64().unwrap();
    assert!(
        (bytes - 4096..bytes).contains(&sum("encodings", "bytes")),
        "{found}"
    );

    let biggest = &found["biggest"][0];
    assert_eq!(found["biggest"].as_array().unwrap().len(), 3);
    assert_eq!(
        (&biggest["key"], &biggest["db"]),
        (&"big:one".into(), &0.into())
    );
    assert!(
        (300_000..300_100).contains(&biggest["bytes"].as_u64().unwrap()),
        "{biggest}"
    );
    assert_eq!(found["prefixes"][0]["prefix"], "big:");
    let times = |name: &str| found["expiries"][name].as_i64().unwrap();
    assert!(times("nearest_unix_ms") <= times("farthest_unix_ms"));
    let functions = u64::from(version.at_least_7());
    assert!(found["functions"].as_u64().unwrap() <= functions, "{found}");
    let text = run(&["inspect", file]);
    assert!(text.stdout.contains("biggest keys"), "{text:?}");
    assert!(text.stdout.contains("not looked into"), "{text:?}");

    // Each value is one that is read to its end.
    let looked = json(&[file, "--values"]);
    let values = |name: &str| looked["values"][name].as_u64().unwrap();
    let modules = found["types"]["vectorset"].as_u64().unwrap_or(0);
    assert_eq!(
        (values("read"), values("unread"), values("bad")),
        (keys - modules, modules, 0),
        "{looked}"
    );
    // However it comes.
    let bytes = fs::read(file).unwrap();
    let compressed = zstd::encode_all(&bytes[..], 1).unwrap();
    let zst = server.dir().join("dump.rdb.zst");
    fs::write(&zst, &compressed).unwrap();
    let mut of_zst = json(&[zst.to_str().unwrap(), "--top", "3"]);
    let input = run_reading(&["inspect", "-", "--json", "--top", "3"], &bytes);
    let mut of_stdin: Value = serde_json::from_str(&input.stdout).unwrap();
    for told in [&mut of_zst, &mut of_stdin] {
        told["source"] = found["source"].clone();
        told["duration_ms"] = found["duration_ms"].clone();
        assert_eq!(*told, found);
    }
    let cut = run_reading(&["inspect", "-"], &compressed[..compressed.len() / 2]);
    assert_eq!(cut.code, 7, "{cut:?}");
}

#[test]
fn a_base_of_a_store_says_which_point_it_is() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let server = Server::start(Version::Redis70, &[]);
    server.cmd(&["MSET", "a:1", "x", "a:2", "y", "b", "z"]);
    let backfeed = Backfeed::backup(&server.url(), &store, &[]);
    backfeed.wait_following();
    server.cmd(&["SET", "later", "x"]);
    quiet(&server, 1);
    let found = json(&["--store", &store]);
    assert_eq!(found["keys"], 3);
    assert!(
        found["base"]["log_bytes_after"].as_u64().unwrap() > 0,
        "{found}"
    );
    let text = run(&["inspect", "--store", &store]);
    assert!(text.stdout.contains("are not included"), "{text:?}");
    let offset = found["base"]["at"]["offset"].to_string();
    let exact = json(&["--store", &store, "--offset", &offset]);
    assert_eq!(exact["base"]["log_bytes_after"], 0);
}

/// A base is read as it lies in the store.
#[test]
fn an_object_of_a_store_is_read_as_a_file() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let server = Server::start(Version::Redis86, &[]);
    server.cmd(&["MSET", "a", "x", "b", "y"]);
    let args = [
        "backup",
        "--once",
        "--redis",
        &server.url(),
        "--store",
        &store,
    ];
    assert_eq!(run(&args).code, 0);
    let found = json(&["--store", &store]);
    let id = found["base"]["at"]["history"].as_str().unwrap();
    let bases = home.path().join("bucket/histories").join(id).join("base");
    let mut files = fs::read_dir(bases)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let base = files.find(|path| path.extension().is_some_and(|it| it == "zst"));
    let of_file = json(&[base.unwrap().to_str().unwrap(), "--values"]);
    assert_eq!(
        (&of_file["keys"], &of_file["bytes"]),
        (&2.into(), &found["bytes"])
    );
}

#[test]
fn what_is_odd_in_an_rdb_is_told_beside_what_was_read() {
    let string = |value: &str| [&[value.len() as u8][..], value.as_bytes()].concat();
    let long = "k".repeat(600);
    let nan = blob(Version::Redis70, &["a", "nan"]);
    let keys = [
        ("z", 17, nan),
        ("s", 0, string("1")),
        (&long, 0, string("2")),
    ];
    let sound = rdb(10, &keys);
    let inspect = |bytes: &[u8], more: &[&str]| {
        let output = run_reading(&[&["inspect", "-", "--json"], more].concat(), bytes);
        let found: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(found["keys"], 3, "{found}");
        (output, found)
    };
    let (output, found) = inspect(&sound, &[]);
    assert_eq!((output.code, &found["values"]), (0, &Value::Null));
    let big = &found["biggest"][0];
    assert_eq!(
        (&big["key_cut"], &found["version_known"]),
        (&true.into(), &true.into())
    );
    assert_eq!(found["biggest"][1]["key_cut"], false);

    let (output, found) = inspect(&sound, &["--values"]);
    assert_eq!(
        (output.code, &found["values"]["bad"]),
        (7, &1.into()),
        "{found}"
    );
    let problem = &found["values"]["problems"][0];
    assert_eq!(
        (&problem["key"], &problem["why"]),
        (&"z".into(), &"a score is not a number".into())
    );

    let (output, found) = inspect(&[&sound[..], b"*1\r\n$4\r\nPING\r\n"].concat(), &[]);
    assert_eq!(
        (output.code, &found["unread_from"]),
        (7, &sound.len().into())
    );
    assert!(output.stderr.contains("append-only file"), "{output:?}");
    let (output, _) = inspect(&[&sound[..], b"xyz"].concat(), &[]);
    assert_eq!(output.code, 7);
    assert!(
        output.stderr.contains("does not belong to it"),
        "{output:?}"
    );

    let newer = rdb(77, &keys);
    let (output, found) = inspect(&newer, &[]);
    assert_eq!((output.code, &found["version_known"]), (0, &false.into()));
    let text = run_reading(&["inspect", "-"], &newer);
    assert!(
        text.stdout.contains("REDIS0077 is a newer RDB version"),
        "{text:?}"
    );
    assert!(text.stdout.contains("… (cut)"), "{text:?}");
}

#[test]
fn what_cannot_be_inspected_is_told() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("x.rdb");
    fs::write(&file, "REDIS0011 and then something else altogether").unwrap();
    let file = file.to_str().unwrap();
    for (args, code, word) in [
        (&["inspect"][..], 2, "--store <URL>"),
        (
            &["inspect", file],
            7,
            "x.rdb: it can be read up to byte 9 only",
        ),
        (
            &["inspect", "/nowhere/y.rdb"],
            1,
            "cannot read /nowhere/y.rdb",
        ),
        (
            &["inspect", file, "--offset", "3"],
            2,
            "name a point of a store",
        ),
    ] {
        let output = run(args);
        assert_eq!(output.code, code, "{output:?}");
        assert!(output.stderr.contains(word), "{output:?}");
    }
}

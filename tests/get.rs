//! `backfeed get`: a key as it was at any point, and what became of it.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::data::for_each_version;
use crate::support::state::quiet;
use crate::support::{Backfeed, Server, Version, run};

struct Stored {
    _home: TempDir,
    store: String,
    server: Server,
    backfeed: Backfeed,
}

impl Stored {
    /// A base with `before` in it, and the log open.
    fn new(version: Version, before: &[&[&str]]) -> Self {
        let home = TempDir::new().unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        let server = Server::start(version, &[]);
        for command in before {
            server.cmd(command);
        }
        let backfeed = Backfeed::backup(&server.url(), &store, &[]);
        backfeed.wait_following();
        Self {
            _home: home,
            store,
            server,
            backfeed,
        }
    }

    /// Runs a command in the feed; the offset after it.
    fn run(&self, command: &[&str]) -> String {
        self.server.cmd(command);
        quiet(&self.server, 1);
        self.backfeed.wait_captured(&self.server);
        self.server.position().1.to_string()
    }

    fn get(&self, key: &str, more: &[&str]) -> Value {
        let output = run(&[&["get", key, "--store", &self.store, "--json"], more].concat());
        assert_eq!(output.code, 0, "{output:?}");
        serde_json::from_str(&output.stdout).unwrap()
    }

    fn value(&self, key: &str, more: &[&str]) -> Value {
        self.get(key, more)["value"].clone()
    }
}

for_each_version!(
    every_type_of_a_base_is_shown,
    a_key_is_what_it_was_at_each_point
);

fn every_type_of_a_base_is_shown(version: Version) {
    let long = "x".repeat(100);
    let stored = Stored::new(
        version,
        &[
            &["SET", "s", "héllo"],
            &["SET", "n", "12345"],
            &["SET", "t", "x", "PXAT", "4000000000000"][..if version.at_least_7() { 5 } else { 3 }],
            &["RPUSH", "l", "a", "7", "-300", &long],
            &["SADD", "ints", "3", "1", "2"],
            &["SADD", "set", "a"],
            &["ZADD", "z", "1.5", "a", "-2", "b", "+inf", "c"],
            &["ZADD", "zbig", "1.5", &long],
            &["HSET", "h", "f", "v", "n", "1"],
            &["HSET", "hbig", "f", &long],
            &["XADD", "x", "1-1", "a", "1"],
            &["XADD", "x", "1-2", "b", "2 3"],
            &["XGROUP", "CREATE", "x", "group", "1-1"],
        ],
    );
    assert_eq!(stored.value("s", &[]), "héllo");
    assert_eq!(stored.value("n", &[]), "12345");
    assert_eq!(stored.value("l", &[]), json!(["a", "7", "-300", long]));
    assert_eq!(stored.value("ints", &[]), json!(["1", "2", "3"]));
    assert_eq!(stored.value("set", &[]), json!(["a"]));
    let scored = |member: &str, score: Value| json!({ "member": member, "score": score });
    let z = json!([
        scored("b", json!(-2.0)),
        scored("a", json!(1.5)),
        scored("c", json!("inf"))
    ]);
    assert_eq!(stored.value("z", &[]), z);
    assert_eq!(
        stored.value("zbig", &[]),
        json!([scored(&long, json!(1.5))])
    );
    let field = |field: &str, value: &str| json!({ "field": field, "value": value, "expiry_unix_ms": null });
    assert_eq!(
        stored.value("h", &[]),
        json!([field("f", "v"), field("n", "1")])
    );
    assert_eq!(stored.value("hbig", &[]), json!([field("f", &long)]));
    let stream = stored.get("x", &[]);
    assert_eq!(
        stream["value"],
        json!([{ "id": "1-1", "fields": [["a", "1"]] }, { "id": "1-2", "fields": [["b", "2 3"]] }])
    );
    assert_eq!(stream["groups"][0]["last_delivered"], "1-1");
    assert_eq!(
        (&stream["type"], &stream["more"]),
        (&"stream".into(), &false.into())
    );
    if version.at_least_7() {
        assert_eq!(
            stored.get("t", &[])["expiry_unix_ms"],
            4_000_000_000_000_i64
        );
    }
    let cut = stored.get("l", &["--limit", "2"]);
    assert_eq!(
        (&cut["value"], &cut["more"]),
        (&json!(["a", "7"]), &true.into())
    );
    let text = run(&["get", "x", "--store", &stored.store]).stdout;
    assert!(text.contains("\n1-2  b \"2 3\"\n"), "{text}");
}

fn a_key_is_what_it_was_at_each_point(version: Version) {
    let stored = Stored::new(version, &[&["SET", "k", "one"], &["SET", "other", "x"]]);
    let mut points = Vec::new();
    for (command, wanted) in [
        (&["APPEND", "k", "two"][..], Some(json!("onetwo"))),
        (&["SET", "k", "a\nb"], Some(json!("a\nb"))),
        (&["EXPIRE", "k", "1000"], Some(json!("a\nb"))),
        (&["DEL", "k"], None),
        (
            &["HSET", "k", "f", "v"],
            Some(json!([{ "field": "f", "value": "v", "expiry_unix_ms": null }])),
        ),
        (&["RENAME", "other", "k"], Some(json!("x"))),
        (&["FLUSHALL"], None),
        (&["SET", "k", "last"], Some(json!("last"))),
    ] {
        points.push((stored.run(command), wanted));
    }
    for (offset, wanted) in &points {
        let point = ["--offset", offset.as_str()];
        match wanted {
            Some(wanted) => assert_eq!(stored.value("k", &point), *wanted, "{version} {offset}"),
            None => {
                let args = ["get", "k", "--store", &stored.store, "--offset", offset];
                let output = run(&args);
                assert_eq!(output.code, 6, "{output:?}");
                assert!(
                    output.stderr.contains("there is no key k in database 0"),
                    "{output:?}"
                );
            }
        }
    }
    let expiry = stored.get("k", &["--offset", &points[2].0])["expiry_unix_ms"].clone();
    let left = expiry.as_i64().unwrap() - crate::support::state::unix_ms();
    assert!((800_000..1_001_000).contains(&left), "{version}: {left} ms");
    assert_eq!(stored.value("k", &[]), "last");

    let args = ["get", "k", "--store", &stored.store, "--changes", "--json"];
    let output = run(&args);
    let lines = output.stdout.lines();
    let mut changes: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = changes.pop().unwrap();
    assert_eq!(
        (&summary["format"], &summary["commands"]),
        (&json!(1), &json!(changes.len()))
    );
    assert!(summary["from"]["offset"].is_u64() && summary["to"]["offset"].is_u64());
    let names: Vec<&str> = changes
        .iter()
        .map(|change| change["command"][0].as_str().unwrap())
        .collect();
    let wanted = [
        "APPEND",
        "SET",
        "PEXPIREAT",
        "DEL",
        "HSET",
        "RENAME",
        "FLUSHALL",
        "SET",
    ];
    let same = |(a, b): (&&str, &&str)| a.eq_ignore_ascii_case(b);
    assert!(
        names.len() == wanted.len() && names.iter().zip(&wanted).all(same),
        "{names:?}"
    );
    for (change, (offset, _)) in changes.iter().zip(&points) {
        assert!(change["offset"].as_u64().unwrap() <= offset.parse().unwrap());
        let age = crate::support::state::unix_ms() - change["unix_ms"].as_i64().unwrap();
        assert!((0..120_000).contains(&age), "{change}");
    }
}

#[test]
fn databases_and_binary_keys_are_told_apart() {
    let stored = Stored::new(Version::Redis80, &[&["SET", "k", "zero"]]);
    let mut connection = stored.server.connect();
    let mut pipe = redis::pipe();
    pipe.cmd("SELECT").arg(3);
    pipe.cmd("SET").arg("k").arg(&b"\xff\x00"[..]);
    pipe.cmd("SET").arg("Zoë 1").arg("x".repeat(500));
    let _: Vec<redis::Value> = pipe.query(&mut connection).unwrap();
    quiet(&stored.server, 1);
    stored.backfeed.wait_captured(&stored.server);
    assert_eq!(stored.value("k", &[]), "zero");
    assert_eq!(
        stored.value("k", &["--db", "3"]),
        json!({ "base64": "/wA=" })
    );
    assert_eq!(stored.value("Zoë 1", &["--db", "3"]), "x".repeat(500));
    let text = run(&["get", "k", "--db", "3", "--store", &stored.store]).stdout;
    assert!(text.ends_with("\n\\xff\\x00\n"), "{text}");
    let changes = |key: &str, db: &str| {
        let args = [
            "get",
            key,
            "--db",
            db,
            "--store",
            &stored.store,
            "--changes",
        ];
        run(&args).stdout
    };
    assert!(changes("k", "0").starts_with("0 commands touched it"));
    let shown = changes("Zoë 1", "3");
    assert!(
        shown.contains("SET \"Zoë 1\" xxx") && shown.contains("x…\n"),
        "{shown}"
    );
}

/// What `diff` prints of a key, as text and as JSON, names it to `get`; and so does a file, for what no argument can hold.
#[test]
fn a_key_is_named_as_it_was_printed() {
    let stored = Stored::new(Version::Redis80, &[]);
    let keys: [&[u8]; 5] = [
        b"plain",
        b"nul\x00\xff",
        "Zo\u{eb} 1".as_bytes(),
        b"back\\x00slash",
        b"line\nbreak",
    ];
    let from = format!("offset:{}", stored.server.position().1);
    let mut connection = stored.server.connect();
    let mut pipe = redis::pipe();
    for (n, key) in keys.iter().enumerate() {
        pipe.cmd("SET").arg(*key).arg(n).ignore();
    }
    pipe.query::<()>(&mut connection).unwrap();
    stored.backfeed.wait_captured(&stored.server);
    let args = [
        "diff",
        "--store",
        &stored.store,
        "--from",
        &from,
        "--to",
        "latest",
    ];
    let text = run(&args).stdout;
    let printed = text.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("  + db0 ")?.rsplit_once(" (")?;
        Some(name.to_owned())
    });
    let printed: Vec<String> = printed.collect();
    assert_eq!(printed.len(), keys.len(), "{text}");
    let mut values: Vec<Value> = printed
        .iter()
        .map(|name| stored.value(name, &["--key-as", "escaped"]))
        .collect();
    values.sort_by_key(ToString::to_string);
    assert_eq!(values, ["0", "1", "2", "3", "4"]);
    let json: Value =
        serde_json::from_str(&run(&[&args[..], &["--json"]].concat()).stdout).unwrap();
    let binary = json["keys"].as_array().unwrap().iter();
    let binary = binary.filter_map(|key| key["key"]["base64"].as_str());
    let binary: Vec<&str> = binary.collect();
    assert_eq!(binary.len(), 1, "{json}");
    assert_eq!(stored.value(binary[0], &["--key-as", "base64"]), "1");

    let file = stored._home.path().join("key");
    std::fs::write(&file, keys[1]).unwrap();
    let args = [
        "get",
        "--key-file",
        file.to_str().unwrap(),
        "--store",
        &stored.store,
    ];
    let output = run(&args);
    assert!(output.stdout.ends_with("\n1\n"), "{output:?}");
    let args = ["get", "--key-file", "-", "--store", &stored.store];
    let output = crate::support::backfeed::run_reading(&args, keys[3]);
    assert!(output.stdout.ends_with("\n3\n"), "{output:?}");
    let args = [
        "get",
        "a\\q",
        "--key-as",
        "escaped",
        "--store",
        &stored.store,
    ];
    assert_eq!(run(&args).code, 2);
}

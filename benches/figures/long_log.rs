//! What each verb takes, in time and memory, on an archive with so many segments behind its base; and again when they are merged.

use std::process::Command;

use super::*;
use support::run_with;

pub fn run(segments: usize) {
    println!("verbs on a directory with {segments} segments of one write each behind the base");
    println!("  verb                                          time   most memory");
    let place = Place::directory();
    let store = place.url("long-log");
    let id = fill_log(&place, &store, segments);
    let of = |name: &str| place.home.path().join(name).display().to_string();
    let (file, merged_file) = (of("before.rdb"), of("after.rdb"));
    let readers = |file: &str| {
        verb(&store, &["list"]);
        verb(&store, &["list", "--json"]);
        verb(&store, &["cost"]);
        verb(&store, &["get", "key:1"]);
        verb(&store, &["get", "key:1", "--changes"]);
        verb(&store, &["verify"]);
        verb(&store, &["verify", "--deep"]);
        verb(&store, &["expire", "--keep", "1d"]);
        verb(&store, &["restore", "--to", file]);
    };
    readers(&file);
    verb(&store, &["merge"]);
    let spans = std::fs::read_dir(place.path("long-log").join(format!("histories/{id}/spans")));
    println!("  {} spans", spans.map_or(0, Iterator::count));
    readers(&merged_file);
    verb(&store, &["consolidate"]);
    let read = |file: &str| std::fs::read(file).unwrap();
    assert_eq!(read(&file).len(), read(&merged_file).len());
    println!();
}

/// A base of few keys and the log. Returns the history.
fn fill_log(place: &Place, store: &str, segments: usize) -> String {
    let redis = redis();
    for n in 0..100 {
        redis.cmd(&["SET", &format!("base:{n}"), "value"]);
    }
    let args = [
        "backup",
        "--once",
        "--redis",
        &redis.url(),
        "--store",
        store,
    ];
    let output = run_with(&Env::new(), &args);
    assert_eq!(output.code, 0, "{output:?}");
    let (id, _) = redis.position();
    let at = support::list(store)["histories"][0]["bases"][0]["offset"]
        .as_u64()
        .unwrap();
    let root = place.path("long-log");
    std::fs::create_dir_all(root.join(format!("histories/{id}/log"))).unwrap();
    boot::segments_after(&id, at, segments, |name, body| {
        std::fs::write(root.join(name), body).unwrap();
    });
    id
}

fn verb(store: &str, args: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backfeed"));
    command.args(args).args(["--store", store]);
    let (time, memory) = measure(&mut command);
    println!(
        "  {:40} {:9.2} s   {:7} KiB",
        args.join(" ").split(" --to ").next().unwrap(),
        time.as_secs_f64(),
        memory
    );
}

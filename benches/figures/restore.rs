//! A restore to a running server against that server's own load of the same RDB at its start.

use super::*;
use support::{Backfeed, run_with, wait_until};

pub fn run(redis: &Server, place: &Place) {
    let store = place.url("restore");
    let args = [
        "backup",
        "--once",
        "--redis",
        &redis.url(),
        "--store",
        &store,
    ];
    assert_eq!(run_with(&place.env(), &args).code, 0);
    let dump = place.home.path().join("dump.rdb");
    let to = dump.display().to_string();
    let output = run_with(&place.env(), &["restore", "--store", &store, "--to", &to]);
    assert_eq!(output.code, 0, "{output:?}");
    let keys = redis.text(&["DBSIZE"]);
    let mut ratios = Vec::new();
    println!("restore to a server   backfeed   its own load   ratio");
    for round in 0..ROUNDS {
        let target = super::redis();
        let mut ours = Command::new(env!("CARGO_BIN_EXE_backfeed"));
        ours.args(["restore", "--store", &store, "--to", &target.url()]);
        let (ours, _) = measure(&mut ours);
        assert_eq!(target.text(&["DBSIZE"]), keys);
        drop(target);

        let mut own = super::redis();
        own.kill9();
        std::fs::copy(&dump, own.dir().join("dump.rdb")).unwrap();
        let begun = Instant::now();
        own.restart();
        wait_until("it has loaded", Duration::from_secs(600), || {
            own.info("persistence")["loading"] == "0" && own.text(&["DBSIZE"]) == keys
        });
        let theirs = begun.elapsed();
        ratios.push(ratio(ours, theirs));
        println!(
            "  round {round}            {:6.2} s       {:6.2} s    {:4.2}",
            ours.as_secs_f64(),
            theirs.as_secs_f64(),
            ratios[round]
        );
    }
    println!("  median ratio {:.2}\n", middle(&mut ratios));
}

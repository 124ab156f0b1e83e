//! A full sync: `backfeed backup --once` against `redis-cli --rdb`, in turn.

use super::*;

pub fn run(redis: &Server, store: &Place) {
    println!("full sync to {}", store.name);
    println!("             backfeed   redis-cli --rdb   ratio   peak RSS   peak RSS of redis-cli");
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("bucket-{round}");
        let mut ours = Command::new(env!("CARGO_BIN_EXE_backfeed"));
        ours.envs(store.env())
            .args(["backup", "--once", "--redis", &redis.url()])
            .args(["--store", &store.url(&name)]);
        let file = store.home.path().join("dump.rdb");
        let mut theirs = Command::new(redis.version().program("cli"));
        theirs
            .args(["-p", &redis.port().to_string(), "--rdb"])
            .arg(&file);
        // Who comes first has a colder cache, and the other the disk's debts.
        let (ours, theirs) = if round % 2 == 0 {
            let ours = measure(&mut ours);
            (ours, measure(&mut theirs))
        } else {
            let theirs = measure(&mut theirs);
            (measure(&mut ours), theirs)
        };
        ratios.push(ratio(ours.0, theirs.0));
        println!(
            "  round {round}   {:6.2} s          {:6.2} s    {:4.2}   {:4} MiB               {:4} MiB",
            ours.0.as_secs_f64(),
            theirs.0.as_secs_f64(),
            ratios[round],
            ours.1 / 1024,
            theirs.1 / 1024
        );
        let (raw, stored) = (size(&file), store.size(&name));
        if round == 0 {
            println!(
                "  stored: {stored} bytes of {raw} ({:.2})",
                stored as f64 / raw as f64
            );
        }
        std::fs::remove_dir_all(store.path(&name)).unwrap();
        std::fs::remove_file(&file).unwrap();
    }
    println!("  median ratio {:.2}\n", middle(&mut ratios));
}

//! A full sync: `backfeed backup --once` against `redis-cli --rdb`, in turn. To the emulator also against `redis-cli --rdb` with its
//! bytes put there as they come: the emulator has its share of the same cores.

use super::*;

pub fn run(redis: &Server, store: &Place) {
    println!("full sync to {}", store.name);
    println!("             backfeed   redis-cli --rdb   ratio   peak RSS   peak RSS of redis-cli");
    let (mut ratios, mut put_ratios) = (Vec::new(), Vec::new());
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
        if let Some(gcs) = &store.gcs {
            let put = put(redis, &gcs.direct_host());
            put_ratios.push(ratio(ours.0, put));
            println!(
                "            redis-cli --rdb, put into the emulator: {:6.2} s   {:4.2}",
                put.as_secs_f64(),
                put_ratios[round]
            );
        }
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
    println!("  median ratio {:.2}", middle(&mut ratios));
    if !put_ratios.is_empty() {
        println!("  median ratio to putting {:.2}", middle(&mut put_ratios));
    }
    println!();
}

/// One simple upload of unknown length.
fn put(redis: &Server, host: &str) -> Duration {
    let begun = Instant::now();
    let mut dump = Command::new(redis.version().program("cli"))
        .args(["-p", &redis.port().to_string(), "--rdb", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-cli starts");
    let address = host.trim_start_matches("http://");
    let mut emulator = TcpStream::connect(address).unwrap();
    write!(
        emulator,
        "POST /upload/storage/v1/b/bucket/o?uploadType=media&name=put HTTP/1.1\r\nHost: {address}\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut from = dump.stdout.take().unwrap();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let many = from.read(&mut chunk).unwrap();
        write!(emulator, "{many:x}\r\n").unwrap();
        emulator.write_all(&chunk[..many]).unwrap();
        emulator.write_all(b"\r\n").unwrap();
        if many == 0 {
            break;
        }
    }
    assert!(dump.wait().unwrap().success());
    let mut answer = String::new();
    emulator.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    begun.elapsed()
}

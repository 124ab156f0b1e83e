#![allow(clippy::unwrap_used)]

use super::*;

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

fn complaint(text: &str) -> String {
    text.parse::<Source>().unwrap_err().to_string()
}

#[test]
fn a_source_is_read_from_its_url() {
    let plain = source("redis://cache.example");
    assert_eq!((plain.host.as_str(), plain.port), ("cache.example", 6379));
    assert_eq!((plain.username, plain.password), (None, None));

    let full = source("redis://back%40feed:p%2Fw%3A%25@10.0.0.7:7000/");
    assert_eq!(full.host, "10.0.0.7");
    assert_eq!(full.port, 7000);
    assert_eq!(full.username.as_deref(), Some("back@feed"));
    assert_eq!(full.password.unwrap().expose(), "p/w:%");

    let six = source("redis://:pw@[2001:db8::1]:6380");
    assert_eq!((six.host.as_str(), six.port), ("2001:db8::1", 6380));
    assert_eq!(six.username, None);
    assert_eq!(six.addr(), "[2001:db8::1]:6380");
}

#[test]
fn rediss_is_tls_and_only_it_takes_flags_of_tls() {
    let secure = source("rediss://u:p@cache.example");
    assert_eq!(secure.tls, Some(Tls::default()));
    assert_eq!(secure.to_string(), "rediss://u@cache.example:6379");
    // `history.json` names the same server as before.
    assert_eq!(secure.addr(), source("redis://cache.example").addr());

    let named = Tls {
        server_name: Some("redis.internal".to_owned()),
        ..Tls::default()
    };
    assert!(secure.clone().with_tls(named.clone()).is_ok());
    assert!(source("redis://h").with_tls(Tls::default()).is_ok());
    let plain = source("redis://h").with_tls(named).unwrap_err();
    assert!(plain.to_string().contains("Write rediss://"), "{plain}");
    assert!(source("rediss://[::1]").with_tls(Tls::default()).is_ok());
}

#[test]
fn what_is_no_source_is_told_with_what_to_write() {
    assert!(complaint("127.0.0.1:6379").contains("redis://[user[:password]@]host[:port]"));
    assert!(complaint("redis://h/3").contains("nothing may follow the port"));
    assert!(complaint("redis://h?db=1").contains("nothing may follow the port"));
    assert!(complaint("redis://").contains("host"));
    assert!(complaint("redis://h:0").contains("port 0"));
    assert!(complaint("redis://u:%ff@h").contains("not UTF-8"));
}

#[test]
fn no_secret_is_shown_by_a_source_or_by_its_error() {
    let shown = source("redis://u:hunter2@h");
    assert_eq!(shown.to_string(), "redis://u@h:6379");
    assert!(!format!("{shown:?}").contains("hunter2"));
    for wrong in [
        "redis://u:hun/ter2@h",
        "redis://:hunter2",
        "redis://u:hunter2@h:port",
        "redis://u:hunter2@h/3",
        "http://u:hunter2@h",
        "u:hunter2@h",
        "rediss://u:hunter2@h/3",
        "redis://u:hunter2@",
    ] {
        assert!(!complaint(wrong).contains("ter2"), "{}", complaint(wrong));
    }
}

#[test]
fn redaction_leaves_everything_but_user_and_password() {
    assert_eq!(
        redact("a --redis=redis://u:p@w@h:1 'x"),
        "a --redis=redis://***@h:1 'x"
    );
    assert_eq!(
        redact("redis://:a@h redis://:b@i"),
        "redis://***@h redis://***@i"
    );
    assert_eq!(redact("file:///a/b and a@b"), "file:///a/b and a@b");
}

#[test]
fn a_password_file_gives_its_line_and_excludes_a_password_in_the_url() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "hunter2\r\n").unwrap();
    let with_file = source("redis://u@h")
        .with_password_file(Some(file.clone()))
        .unwrap();
    assert_eq!(
        with_file.current_password().unwrap().unwrap().expose(),
        "hunter2"
    );
    // Mounted secrets are rotated: the next connection takes the new one.
    std::fs::write(&file, "hunter3").unwrap();
    assert_eq!(
        with_file.current_password().unwrap().unwrap().expose(),
        "hunter3"
    );

    let both = source("redis://u:p@h")
        .with_password_file(Some(file.clone()))
        .unwrap_err();
    assert!(
        both.to_string()
            .contains("a password in the URL and a password file")
    );
    std::fs::write(&file, "\n").unwrap();
    let empty = source("redis://h")
        .with_password_file(Some(file))
        .unwrap_err();
    assert!(empty.to_string().ends_with("it is empty"), "{empty}");
    let missing = source("redis://h")
        .with_password_file(Some(dir.path().join("no")))
        .unwrap_err();
    assert!(
        missing.to_string().contains("no: No such file"),
        "{missing}"
    );
}

#[test]
fn beyond_loopback_a_listener_needs_a_password_or_client_certificates() {
    let open =
        |addr: &str, admission: &Admission| Listen::new(addr.parse().unwrap(), admission.clone());
    let tls = |client_ca: Option<&str>| {
        Some(ListenTls {
            cert: "cert".into(),
            key: "key".into(),
            client_ca: client_ca.map(Into::into),
        })
    };
    let anybody = Admission::default();
    let encrypted = Admission {
        tls: tls(None),
        ..anybody.clone()
    };
    let by_password = Admission {
        password_file: Some("password".into()),
        ..anybody.clone()
    };
    let by_certificate = Admission {
        tls: tls(Some("ca")),
        ..anybody.clone()
    };
    for addr in ["127.0.0.1:6390", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        let open = open(addr, &anybody).unwrap();
        assert_eq!(open.admission.warning(open.addr), None);
    }
    for addr in ["0.0.0.0:6390", "[::]:6390", "10.1.2.3:1"] {
        for unguarded in [&anybody, &encrypted] {
            let error = open(addr, unguarded).unwrap_err().to_string();
            assert!(error.contains("`listen_password_file`"), "{error}");
            assert!(error.contains("`listen_tls_client_ca`"), "{error}");
        }
        for (guarded, warned) in [(&by_password, true), (&by_certificate, false)] {
            let open = open(addr, guarded).unwrap();
            let warning = open.admission.warning(open.addr);
            assert_eq!(warning.is_some(), warned, "{warning:?}");
        }
    }
}

#[test]
fn the_listeners_password_is_read_anew_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    let admission = Admission {
        password_file: Some(file.clone()),
        ..Admission::default()
    };
    for password in ["first", "second"] {
        std::fs::write(&file, password).unwrap();
        let read = admission.current_password().unwrap().unwrap();
        assert_eq!(read.expose(), password);
    }
    std::fs::remove_file(&file).unwrap();
    let error = admission.current_password().unwrap_err().to_string();
    assert!(error.starts_with("`listen_password_file`: "), "{error}");
    assert_eq!(Admission::default().current_password().unwrap(), None);
}

#[test]
fn a_destination_is_a_server_a_directory_or_a_file() {
    let dest = |text: &str| text.parse::<Dest>();
    assert_eq!(
        dest("redis://h:1").unwrap(),
        Dest::Server(source("redis://h:1"))
    );
    assert_eq!(
        dest("aof:/data/appendonlydir").unwrap(),
        Dest::Aof("/data/appendonlydir".into())
    );
    assert_eq!(
        dest("./out/dump.RDB").unwrap(),
        Dest::RdbFile("./out/dump.RDB".into())
    );
    assert!(dest("aof:").is_err());
    // Any name; and what follows is not looked at.
    for (written, file) in [
        ("rdb:dump", "dump"),
        ("rdb:/x/aof:y", "/x/aof:y"),
        ("rdb:a.rdb", "a.rdb"),
    ] {
        assert_eq!(dest(written).unwrap(), Dest::RdbFile(file.into()));
        let keys: KeysDest = written.parse().unwrap();
        assert_eq!(keys, KeysDest::RdbFile(file.into()));
    }
    assert!(dest("rdb:").unwrap_err().to_string().contains("rdb:FILE"));
    assert_eq!(
        dest("rediss://h").unwrap(),
        Dest::Server(source("rediss://h"))
    );
    assert!(dest("rediss://").unwrap_err().to_string().contains("host"));
    assert!(
        dest("dump.aof")
            .unwrap_err()
            .to_string()
            .contains("aof:DIR")
    );
}

#[test]
fn a_history_is_continued_on_a_server_from_its_end_alone() {
    let config = |to: &str, at: Option<&str>, offset| RestoreConfig {
        at: at.map(str::to_owned),
        offset,
        continue_history: true,
        ..RestoreConfig::latest(to.parse().unwrap())
    };
    assert!(config("redis://h", None, None).checked().is_ok());
    assert!(config("redis://h", Some("latest"), None).checked().is_ok());
    assert!(
        config("redis://h", Some("10m ago"), None)
            .checked()
            .is_err()
    );
    assert!(
        config("redis://h", None, Some(Offset(5)))
            .checked()
            .is_err()
    );
    assert!(config("x.rdb", None, None).checked().is_err());
}

#[test]
fn lengths_of_time_have_a_unit() {
    assert_eq!(parse_duration("1s").unwrap(), Duration::from_secs(1));
    assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
    assert_eq!(parse_duration("10m").unwrap(), Duration::from_secs(600));
    assert_eq!(parse_duration("1h30m").unwrap(), Duration::from_secs(5400));
    assert_eq!(parse_duration("2d").unwrap(), Duration::from_secs(172_800));
    for wrong in ["", "1", "-1s", "s", "1 fortnight", "99999999999999999999s"] {
        assert!(parse_duration(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn an_address_for_health_is_written_in_three_ways() {
    let addrs = |text: &str| {
        let addr: HttpAddr = text.parse().unwrap();
        let addrs: Vec<String> = addr.addrs().iter().map(ToString::to_string).collect();
        assert_eq!(addr.to_string(), text);
        addrs
    };
    assert_eq!(addrs("10.0.0.1:9390"), ["10.0.0.1:9390"]);
    assert_eq!(addrs("[::1]:9390"), ["[::1]:9390"]);
    assert_eq!(addrs(":9390"), ["[::]:9390", "0.0.0.0:9390"]);
    assert_eq!(addrs("localhost:9390"), ["127.0.0.1:9390", "[::1]:9390"]);
    for wrong in [
        "9390",
        "",
        ":",
        ":x",
        ":+1",
        ":65536",
        "localhost",
        "localhost:",
        "somewhere:9390",
        "::1:",
    ] {
        let error = wrong.parse::<HttpAddr>().unwrap_err().to_string();
        assert!(error.contains("localhost:9390"), "{wrong}: {error}");
    }
}

#[test]
fn sizes_are_binary_or_decimal_as_written() {
    assert_eq!(parse_addr("[::1]:1").unwrap().port(), 1);
    assert_eq!(
        parse_addr("localhost:6390").unwrap(),
        ([127, 0, 0, 1], 6390).into()
    );
    let wrong = parse_addr("otherhost:6390").unwrap_err().to_string();
    assert!(wrong.contains("write IP:PORT"), "{wrong}");
    assert_eq!(parse_size("8MiB").unwrap(), 8 << 20);
    assert_eq!(parse_size("64Mi").unwrap(), 64 << 20);
    assert_eq!(parse_size("2 kib").unwrap(), 2048);
    assert_eq!(parse_size("1MB").unwrap(), 1_000_000);
    assert_eq!(parse_size("4096").unwrap(), 4096);
    for wrong in ["", "MiB", "-1", "1.5MiB", "8 miles", "99999999999GiB", "é"] {
        assert!(parse_size(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn capture_limits_fit_together() {
    let config = CaptureConfig::default();
    assert!(config.clone().checked().is_ok());
    assert!(
        CaptureConfig {
            flush_interval: Duration::ZERO,
            ..config.clone()
        }
        .checked()
        .is_err()
    );
    assert!(
        CaptureConfig {
            segment_size: 100,
            ..config.clone()
        }
        .checked()
        .is_err()
    );
    assert!(
        CaptureConfig {
            memory_limit: 9 << 20,
            ..config.clone()
        }
        .checked()
        .is_err()
    );
    let spool = |limit| CaptureConfig {
        spool: Some(SpoolConfig {
            dir: "/spool".into(),
            limit,
        }),
        ..config.clone()
    };
    assert!(spool(SPOOL_LIMIT_MIN).checked().is_ok());
    assert!(spool(SPOOL_LIMIT_MIN - 1).checked().is_err());
}

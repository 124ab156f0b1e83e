#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::config::Secret;

fn sentinels(text: &str) -> Sentinels {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> String {
    text.parse::<Sentinels>().unwrap_err().to_string()
}

#[test]
fn a_url_names_sentinels_a_master_and_the_servers_login() {
    let found = sentinels(
        "redis+sentinel://backup:p%40ss@one:5000,[::1],10.0.0.3:26380/my%20shop"
            .replace("%20", "-")
            .as_str(),
    );
    let addrs: Vec<String> = found.seeds.iter().map(Source::addr).collect();
    assert_eq!(addrs, ["one:5000", "[::1]:26379", "10.0.0.3:26380"]);
    assert_eq!(found.name, "my-shop");
    assert_eq!(found.service(), "sentinel:my-shop");
    assert!(
        found
            .seeds
            .iter()
            .all(|seed| seed.username.is_none() && seed.password.is_none())
    );
    let server = found.server("10.0.0.9".into(), 6379);
    assert_eq!(
        (server.addr().as_str(), server.username.as_deref()),
        ("10.0.0.9:6379", Some("backup"))
    );
    assert_eq!(server.password.as_ref().map(Secret::expose), Some("p@ss"));
    assert_eq!(
        found.to_string(),
        "redis+sentinel://backup@one:5000,[::1]:26379,10.0.0.3:26380/my-shop"
    );
    assert!(!format!("{found:?}{found}").contains("p@ss"));
}

#[test]
fn with_tls_it_is_for_sentinels_and_servers_alike() {
    let found = sentinels("rediss+sentinel://one,two/shop");
    let tls = Tls {
        server_name: Some("redis.example".into()),
        ..Tls::default()
    };
    let found = found.with_tls(&tls).unwrap();
    assert!(
        found
            .seeds
            .iter()
            .all(|seed| seed.tls.as_ref() == Some(&tls))
    );
    assert_eq!(found.server("h".into(), 1).tls, Some(tls.clone()));
    assert_eq!(
        found.sentinel("three".into(), 7).unwrap().tls,
        Some(tls.clone())
    );
    let plain = sentinels("redis+sentinel://one/shop");
    assert!(plain.clone().with_tls(&tls).is_err());
    assert_eq!(plain.clone().with_tls(&Tls::default()).unwrap(), plain);
}

#[test]
fn what_cannot_be_meant_is_refused_without_repeating_it() {
    for (text, says) in [
        (
            "redis+sentinel://:s3cret@one:26379",
            "the master's name is missing",
        ),
        (
            "redis+sentinel://:s3cret@one/",
            "only the master's name may follow",
        ),
        (
            "redis+sentinel://:s3cret@one/shop/0",
            "only the master's name may follow",
        ),
        (
            "redis+sentinel://:s3cret@one/shop?db=1",
            "only the master's name may follow",
        ),
        ("redis+sentinel://:s3cret@one,,two/shop", "master-name"),
        ("redis+sentinel://:s3cret@one:port/shop", "master-name"),
        ("redis+sentinel://:s3cret@one:0/shop", "port 0"),
        ("redis+sentinel://:s3cret@/shop", "master-name"),
    ] {
        let error = refusal(text);
        assert!(error.contains(says), "{text}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[test]
fn a_single_server_is_not_found_through_sentinels() {
    let error = "redis+sentinel://:s3cret@one/shop"
        .parse::<Source>()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("only `backfeed backup`") && !error.contains("s3cret"),
        "{error}"
    );
    assert!(matches!("redis://one".parse(), Ok(Upstream::Server(_))));
    assert!(matches!(
        "redis+sentinel://one/shop".parse(),
        Ok(Upstream::Sentinels(_))
    ));
}

#[test]
fn the_sentinels_login_is_read_from_its_file_for_each_connection() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let found = sentinels("redis+sentinel://:data@one,two/shop");
    let with = found
        .clone()
        .with_login(Some("watcher"), Some(file.clone()))
        .unwrap();
    std::fs::write(&file, "second\n").unwrap();
    for seed in with.seeds.iter().chain(&with.sentinel("three".into(), 1)) {
        assert_eq!(seed.username.as_deref(), Some("watcher"));
        assert_eq!(
            seed.current_password().unwrap(),
            Some(Secret::new("second"))
        );
    }
    assert_eq!(
        with.server("h".into(), 1).current_password().unwrap(),
        Some(Secret::new("data"))
    );
    assert!(found.clone().with_login(Some("watcher"), None).is_err());
    let missing = found
        .with_login(None, Some(dir.path().join("none")))
        .unwrap_err();
    assert!(
        missing.to_string().contains("`sentinel_password_file`"),
        "{missing}"
    );
}

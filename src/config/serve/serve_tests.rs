#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn parse(text: &str) -> Result<ServeConfig, Vec<FileProblem>> {
    ServeConfig::parse(text, &|name| {
        (name == "SHOP_PASSWORD").then(|| "of the variable".to_owned())
    })
}

/// All that is wrong with the file, as an operator sees it.
fn problems(text: &str) -> Vec<String> {
    let problems = parse(text).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

const GOOD: &str = "[sources.a]\nredis = \"redis://h\"\nstore = \"gs://bucket/a\"\n";

#[test]
fn a_source_has_its_own_settings_and_else_the_defaults() {
    let config = parse(
        r#"
[service]
http = ":9390"
memory_budget = "512MiB"
full_syncs = 2
grace = "20s"

[defaults]
redis = "redis://backup@{name}.example:6379"
store = "gs://bucket/redis/{name}"
redis_password_env = "SHOP_PASSWORD"
flush_interval = "500ms"
keep = "7d"
keep_daily = 30

[sources.cart]
flush_interval = "2s"
storage_class = "nearline"

[sources."shop.eu"]
consolidate_every = "never"
merge = "never"
delete_segments = true
drill_every = "24h"
drill_dir = "/scratch/{name}"
segment_size = "1MiB"
"#,
    )
    .unwrap();
    assert_eq!(config.service.full_syncs, 2);
    assert_eq!(config.service.memory_budget, Some(512 << 20));
    assert_eq!(config.service.grace, Duration::from_secs(20));
    let [cart, shop] = &config.sources[..] else {
        unreachable!("{config:?}")
    };
    assert_eq!(cart.name, "cart");
    assert_eq!(cart.redis.to_string(), "redis://backup@cart.example:6379");
    assert_eq!(cart.store.url, "gs://bucket/redis/cart");
    assert_eq!(cart.capture.flush_interval, Duration::from_secs(2));
    assert!(cart.store.gcs.storage_class.is_some());
    assert_eq!(shop.store.url, "gs://bucket/redis/shop.eu");
    assert_eq!(shop.capture.flush_interval, Duration::from_millis(500));
    assert_eq!(shop.capture.segment_size, 1 << 20);
    assert_eq!(
        (shop.consolidate.every, shop.consolidate.merge),
        (None, false)
    );
    assert!(shop.retention.delete_segments);
    assert_eq!(shop.drill.every, Some(Duration::from_secs(24 * 3600)));
    assert_eq!(
        shop.drill.scratch_dir.as_deref(),
        Some(std::path::Path::new("/scratch/shop.eu"))
    );
    for source in [cart, shop] {
        let keep = source.retention.keep.unwrap();
        assert_eq!(
            (keep.points, keep.daily),
            (Duration::from_secs(7 * 86_400), 30)
        );
        let Upstream::Server(server) = &source.redis else {
            unreachable!("a server")
        };
        assert_eq!(
            server.password.as_ref().unwrap().expose(),
            "of the variable"
        );
    }
    assert!(!format!("{config:?}").contains("of the variable"));
    assert_eq!(config.wanted().segment_size, 8 << 20);
}

/// The order of the tables, and where they stand, is nothing that a running source would notice.
#[test]
fn what_is_moved_in_the_file_is_not_changed() {
    let b = GOOD.replace(".a]", ".b]").replace("/a", "/b");
    let one = parse(&format!("{GOOD}{b}")).unwrap();
    let other = parse(&format!("# moved\n\n{b}\n{GOOD}")).unwrap();
    assert_eq!(one.sources, other.sources);
}

#[test]
fn an_error_names_line_and_key_and_what_to_write() {
    for (text, told) in [
        (
            "[sources.a]\nredis = \"redis://h\"\nstore = \"gs://bucket/a\"\nflush_interval = \"soon\"\n",
            "line 4: sources.a.flush_interval: `soon` is not a length of time",
        ),
        (
            "[sources.a]\nredis = \"redis://h\"\nflush-intervall = \"1s\"\n",
            "line 3: sources.a.flush-intervall: there is no key `flush-intervall`. Did you mean `flush_interval`?",
        ),
        (
            "[service]\nhttp = \"9390\"\n",
            "line 2: service.http: `9390` is not an address",
        ),
        (
            "[service]\nfull_syncs = 0\n",
            "line 2: service.full_syncs: must be 1 or more",
        ),
        (
            "[sourcs.a]\n",
            "line 1: sourcs.a: there is no key `sourcs`. Did you mean `sources`?",
        ),
        (
            "[sources.a]\nredis = redis://h\n",
            "line 2: sources.a.redis: ",
        ),
        (
            "[sources.a]\nredis = \"redis://h\"\n[sources.a]\n",
            "line 3: sources.a: duplicate key",
        ),
        (
            "[sources.a]\nredis = \"redis://h\"\nsegment_size = \"1KiB\"\nstore = \"gs://bucket/x\"",
            "line 1: sources.a: `segment_size`: must be 64KiB or more",
        ),
        (
            "[sources.a]\nstore = \"gs://bucket/x\"",
            "line 1: sources.a.redis: the server is missing",
        ),
        (
            "[sources.a]\nredis = \"redis://h\"",
            "line 1: sources.a.store: the store is missing",
        ),
        (
            "[sources.\"a b\"]\nredis = \"redis://h\"\nstore = \"gs://bucket/x\"",
            "line 1: sources.a b: `a b` is no name",
        ),
        (
            "[sources.a]\nredis = \"redis://{host}\"\nstore = \"gs://bucket/x\"",
            "line 2: sources.a.redis: only {name} may stand in braces",
        ),
        (
            "[defaults]\nstore = \"file:///b/{name}\"\n[sources.a]\nredis = \"redis://h\"\nkeep_daily = 3",
            "line 3: sources.a.keep_daily: `keep` is missing",
        ),
        (
            "[sources.a]\nredis = \"redis://h\"\nstore = \"file:///b\"\nuser_project = \"p\"",
            "line 3: sources.a.store: `user_project` is only for Google Cloud Storage",
        ),
        (
            "[sources.a]\nredis = \"redis://h\"\nstore = \"file:///b\"\ntls_ca = \"/ca\"",
            "line 2: sources.a.redis: redis:// is without TLS",
        ),
        ("", "it names no source"),
        (
            "[service]\nfeed_memory = \"1MiB\"\n[sources.a]\nredis = \"redis://h\"\nstore = \"file:///b\"",
            "service: `feed_memory`: must be twice `segment_size`",
        ),
    ] {
        let problems = problems(text);
        let is_told = problems.iter().any(|it| it.starts_with(told));
        assert!(is_told, "{told}: {problems:?}");
    }
}

#[test]
fn all_sources_that_are_wrong_are_told_at_once() {
    let text = "[sources.a]\nredis = \"h\"\n[sources.b]\nredis = \"redis://h:0\"\nstore = \"gs://bucket/x\"\n";
    let problems = problems(text);
    assert_eq!(problems.len(), 2, "{problems:?}");
    let error = FileError {
        path: "f.toml".to_owned(),
        problems: parse(text).unwrap_err(),
    };
    let text = error.to_string();
    assert!(
        text.starts_with("f.toml: line 2: sources.a.redis: not a Redis URL"),
        "{text}"
    );
    assert!(text.contains("; line 4: sources.b.redis: port 0"), "{text}");
}

#[test]
fn no_secret_is_taken_from_the_file_or_shown() {
    let with = |key: &str, value: &str| {
        format!("[sources.a]\n{key} = \"{value}\"\nstore = \"gs://bucket/x\"\n")
    };
    for text in [
        with("redis", "redis://:hunter2@h"),
        with("redis", "redis+sentinel://u:hunter2@h/name"),
        with("redis", "redis://:hunter2/h"),
        with("redis_password", "hunter2"),
        with("password", "hunter2"),
        with("redis_pasword_file", "hunter2"),
        "[sources.a]\nredis = redis://:hunter2@h\n".to_owned(),
        "[sources.a]\nredis = [\"redis://:hunter2@h\"]\n".to_owned(),
    ] {
        let problems = problems(&text).join(" ");
        assert!(!problems.contains("hunter2"), "{problems}");
        assert!(problems.contains("sources.a"), "{problems}");
    }
    let told = problems(&with("redis", "redis://:hunter2@h")).join(" ");
    assert!(
        told.contains("redis_password_file or redis_password_env"),
        "{told}"
    );
    let told = problems(&with("redis_password", "hunter2")).join(" ");
    assert!(
        told.contains("this file holds no secret") || told.contains("the file holds no secret"),
        "{told}"
    );
    let both =
        format!("{GOOD}redis_password_env = \"SHOP_PASSWORD\"\nredis_password_file = \"/p\"\n");
    assert!(problems(&both)[0].contains("leave one out"));
    let unset = format!("{GOOD}redis_password_env = \"NO_SUCH\"\n");
    assert!(
        problems(&unset)[0]
            .starts_with("line 4: sources.a.redis_password_env: the variable NO_SUCH is not set")
    );
    let missing = format!("{GOOD}redis_password_file = \"/no/such/{{name}}\"\n");
    assert!(problems(&missing)[0].contains("/no/such/a"));
}

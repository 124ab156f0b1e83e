#![allow(clippy::unwrap_used)]

use super::*;

fn parse(text: &str) -> Result<ServeConfig, FileError> {
    ConfigFile::new("f.toml".into(), Arc::new(|_| None)).parse(text)
}

#[test]
fn sources_that_would_share_an_archive_are_refused() {
    for (one, other) in [
        ("gs://bucket/x", "gs://bucket/x/"),
        ("gs://bucket", "gs://bucket/x"),
        ("file:///b/x/y", "file:///b//x"),
    ] {
        let error = parse(&format!(
            "[sources.a]\nredis = \"redis://h:1\"\nstore = \"{one}\"\n\
             [sources.b]\nredis = \"redis://h:2\"\nstore = \"{other}\"\n"
        ));
        let error = error.unwrap_err().to_string();
        let begins = "f.toml: line 6: sources.b.store: ";
        assert!(
            error.starts_with(begins) && error.contains("archive of a"),
            "{error}"
        );
    }
    let config = parse(
        "[defaults]\nstore = \"gs://bucket/x/{name}\"\nredis = \"redis://{name}:6379\"\n[sources.ab]\n[sources.a]\n",
    );
    let names = config.unwrap().sources.into_iter().map(|it| it.name);
    assert_eq!(names.collect::<Vec<_>>(), ["a", "ab"]);
}

#[test]
fn a_store_that_cannot_be_one_is_told_with_its_line() {
    let text = "[defaults]\nstore = \"ftp://x/{name}\"\n[sources.a]\nredis = \"redis://h\"\n";
    let error = parse(text).unwrap_err().to_string();
    let begins = "f.toml: line 2: sources.a.store: cannot use the store ftp://x/a: ";
    assert!(error.starts_with(begins), "{error}");
}

#[test]
fn what_holds_only_from_the_next_start_on_is_told() {
    let started = ServiceConfig::default();
    assert_eq!(after_restart(&started, &started), Vec::<&str>::new());
    let now = ServiceConfig {
        full_syncs: 3,
        memory_budget: Some(1 << 30),
        ..ServiceConfig::default()
    };
    let changed = after_restart(&started, &now);
    assert_eq!(changed, ["memory_budget", "full_syncs"]);
}

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn try_parse(line: &[&str]) -> Result<Cli, Refused> {
    parse(
        std::iter::once("backfeed")
            .chain(line.iter().copied())
            .map(OsString::from),
    )
}

#[test]
fn every_flag_has_its_environment_variable_and_hides_its_value() {
    let mut command = command();
    command.build();
    let mut seen = 0;
    for verb in command
        .get_subcommands()
        .filter(|verb| verb.get_name() != "help")
    {
        // A fixture to look at stands on the command line without a flag.
        let flags = verb.get_arguments().filter(|arg| !arg.is_positional());
        for arg in flags.filter(|arg| arg.get_id() != "help") {
            let long = arg.get_long().expect("a long flag");
            let variable = format!("BACKFEED_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().unwrap(), variable.as_str());
            assert!(arg.is_hide_env_values_set(), "{variable}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
    command.debug_assert();
}

#[test]
fn the_contract_of_the_commands_is_kept() {
    for line in [
        "sidecar --redis redis://127.0.0.1:6379 --store file:///b --listen 127.0.0.1:6390",
        "sidecar --redis redis://h --store file:///b --open-after 5m --when-behind capture --ack received --grace 3s",
        "backup --redis redis://u:p@[::1]:1 --store memory: --once --flush-interval 200ms",
        "backup --redis redis://h --store file:///b --segment-size 1MiB --memory-limit 8MiB \
         --http 127.0.0.1:9390 --log-format json -vv",
        "restore --store file:///b --to redis://h --continue-history --dry-run --force --json",
        "restore --store file:///b --to aof:/x --at 2026-01-01T00:00:00Z",
        "restore --store file:///b --to x.rdb --offset 14 --history 0000000000000000000000000000000000000000",
        "list --store file:///b --json",
        "diff --store file:///b --from offset:3 --to latest --limit 3",
        "restore --store file:///b --to resp:x --keys user:* --db 3 --type hash --replace",
        "verify --store file:///b --deep --json",
        "inspect dump.rdb --top 3 --json",
        "inspect --store file:///b --at latest",
        "get user:1 --store file:///b --db 3 --offset 14 --changes",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Err(refused) = try_parse(&words) {
            unreachable!("{line}: {}", refused.text(false));
        }
    }
}

#[test]
fn wrong_usage_is_told_and_shows_no_password() {
    let text = |line: &[&str]| {
        let refused = try_parse(line).unwrap_err();
        assert!(refused.is_error());
        refused.text(false)
    };
    assert!(text(&["list"]).contains("--store"));
    assert!(text(&["inspect"]).contains("inspect [OPTIONS] FILE.rdb"));
    let both = [
        "restore", "--store", "memory:", "--to", "aof:x", "--at", "latest", "--offset", "1",
    ];
    assert!(text(&both).contains("cannot be used with"));
    let wrong = [
        "backup",
        "--store",
        "memory:",
        "--redis",
        "redis://h",
        "--segment-size",
        "big",
    ];
    assert!(text(&wrong).contains("8MiB"));

    for url in [
        "redis://:hunter2@h",
        "redis://u:hunter2@h:1",
        "redis://:hun ter hunter2@h",
        "redis://:x@hunter2@h",
        "redis://:hunter2",
    ] {
        for line in [vec!["backup", url], vec!["list", "--redis", url], vec![url]] {
            let text = text(&line);
            assert!(
                !text.contains("ter2") && !text.contains("hun"),
                "{line:?}: {text}"
            );
        }
        let joined = format!("--nonsense={url}");
        assert!(!text(&["backup", &joined]).contains("ter2"));
    }
}

#[test]
fn help_is_no_error_and_tells_the_exit_codes() {
    for line in [
        vec!["--help"],
        vec!["sidecar", "--help"],
        vec!["restore", "-h"],
    ] {
        let refused = try_parse(&line).unwrap_err();
        assert!(!refused.is_error());
        assert!(refused.text(false).contains("5  superseded"), "{line:?}");
    }
}

#[test]
fn a_failure_is_one_line() {
    let failure = Failure::new(Exit::Store, "a\nb");
    assert_eq!(
        (failure.to_string().as_str(), failure.exit()),
        ("a b", Exit::Store)
    );
}

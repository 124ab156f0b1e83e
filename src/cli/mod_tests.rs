#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn try_parse(line: &[&str]) -> Result<Cli, Refused> {
    parse(
        std::iter::once("backfeed")
            .chain(line.iter().copied())
            .map(OsString::from),
    )
}

/// Flags that are meant for one run: a variable would force, or write over, what nobody meant. And two that have another verb's name.
const WITHOUT_VARIABLE: [(&str, &str); 5] = [
    ("expire", "confirm"),
    ("restore", "force"),
    ("restore", "replace"),
    ("record", "to"),
    ("replay", "once"),
];

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
            let name = verb.get_name();
            if WITHOUT_VARIABLE.contains(&(name, long)) {
                assert_eq!(arg.get_env(), None, "{name} --{long}");
                continue;
            }
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
        "diff --store file:///b --from offset:3 --at latest --limit 3",
        "restore --store file:///b --to rdb:x --at yesterday",
        "sidecar --redis redis://h --store file:///b --http :9390 --feed-memory 32MiB",
        // Names that these flags had before.
        "diff --store file:///b --from offset:3 --to latest",
        "consolidate --store file:///b --to-offset 14",
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

/// The flags in a section of a help page.
fn section<'a>(help: &'a str, heading: &str) -> Vec<&'a str> {
    let after = help.split_once(&format!("\n{heading}:\n"));
    let (_, after) = after.unwrap_or_else(|| unreachable!("{heading}: {help}"));
    let lines = after
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("  "));
    lines
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .collect()
}

#[test]
fn help_begins_with_what_is_needed_and_ends_with_examples_that_work() {
    let help = |verb: &str| try_parse(&[verb, "-h"]).unwrap_err().text(false);
    for (verb, needed) in [
        ("sidecar", &["--store", "--redis"][..]),
        ("backup", &["--store", "--redis"]),
        ("restore", &["--store", "--to"]),
        ("list", &["--store"]),
        ("diff", &["--store", "--from"]),
        ("record", &["--redis", "--to"]),
    ] {
        let help = help(verb);
        assert_eq!(section(&help, "Required"), needed, "{help}");
        // It is the first of the sections.
        let first = help
            .lines()
            .find(|line| line.ends_with(':') && !line.starts_with(' '));
        assert_eq!(first, Some("Required:"), "{help}");
    }
    let restore = help("restore");
    assert_eq!(
        section(&restore, "Point in time"),
        ["--at", "--offset", "--history"]
    );
    assert!(section(&restore, "Chosen keys").contains(&"--replace"));

    let mut seen = 0;
    for verb in command().get_subcommands().map(clap::Command::get_name) {
        let help = help(verb);
        let (_, examples) = help.split_once("Examples:\n").expect(verb);
        for line in examples.lines() {
            let line = line.strip_prefix("  ").expect(verb);
            let (line, _) = line.split_once(['|', '>']).unwrap_or((line, ""));
            let words: Vec<String> = words(line);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if let Err(refused) = try_parse(words.get(1..).unwrap()) {
                unreachable!("{line}: {}", refused.text(false));
            }
            seen += 1;
        }
    }
    assert!(seen >= 25, "{seen}");
}

/// The words of a line, as a shell takes them.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    let mut words = Vec::new();
    for (number, part) in parts {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
fn the_version_tells_the_build() {
    let version = |flag: &str| try_parse(&[flag]).unwrap_err().text(false);
    let first = format!("backfeed {} (", env!("CARGO_PKG_VERSION"));
    assert!(version("-V").starts_with(&first), "{}", version("-V"));
    let long = version("--version");
    assert!(long.starts_with(&first), "{long}");
    assert!(long.contains("\nfeatures: azure gcs http s3 tls"), "{long}");
}

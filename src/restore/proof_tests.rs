#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use super::*;
use crate::rebuild::Counts;

const PORT: u16 = 6390;

fn facts(more: &str) -> Facts {
    Facts::parse(&format!(
        "run_id:a\nrole:slave\nmaster_host:h\nmaster_port:{PORT}\nunexpected_error_replies:5\nevicted_keys:7\n\
         used_memory:1000\nmaxmemory:0\nmaxmemory_policy:noeviction\nnumber_of_libraries:1\ndb0:keys=3,expires=1\n{more}"
    ))
}

fn expected() -> Expected {
    Expected::Known(Counts {
        keys: BTreeMap::from([(0, 3)]),
        libraries: 1,
        bytes: 100,
    })
}

/// How a target that says `more` compares.
fn compared(more: &str, slack: Slack) -> Result<Proof, Differs> {
    let before = Before::of(&facts(""));
    before.compare(&facts(more), &expected(), 0, PORT, slack)
}

#[test]
fn a_target_that_holds_what_it_should_is_proved() {
    let proof = compared("", Slack::None).unwrap();
    assert_eq!(proof.keys(), &BTreeMap::from([(0, 3)]));
    assert_eq!(proof.notes(), &[] as &[String]);
    assert_eq!(proof.evicted_since(&facts("evicted_keys:9\n")), 2);
}

#[test]
fn what_every_server_refuses_of_the_log_is_no_difference() {
    let before = Before::of(&facts(""));
    let compare = |more: &str| before.compare(&facts(more), &expected(), 2, PORT, Slack::None);
    compare("unexpected_error_replies:7\n").unwrap();
    // Served as one snapshot, it replays nothing.
    compare("").unwrap();
    let differs = compare("unexpected_error_replies:8\n").unwrap_err();
    assert!(differs.to_string().contains("it refused 1 commands"));
}

#[test]
fn each_way_to_differ_is_told() {
    for (more, wanted) in [
        ("unexpected_error_replies:7\n", "it refused 2 commands"),
        // The counters were reset.
        ("unexpected_error_replies:1\n", "it refused 1 commands"),
        ("evicted_keys:8\n", "it evicted 1 keys"),
        (
            "db0:keys=2,expires=0\n",
            "database 0 holds 2 keys instead of 3",
        ),
        (
            "db0:keys=4,expires=0\n",
            "database 0 holds 4 keys instead of 3",
        ),
        (
            "db9:keys=1,expires=0\n",
            "database 9 holds 1 keys instead of 0",
        ),
        (
            "number_of_libraries:0\n",
            "0 function libraries instead of 1",
        ),
        ("run_id:b\n", "it was restarted"),
        ("role:master\n", "another client promoted it"),
        ("master_port:1\n", "made it a replica of h:1"),
        (
            "maxmemory:999\nmaxmemory_policy:volatile-ttl\n",
            "would evict keys as soon as it is opened; its maxmemory is 999 bytes, with maxmemory-policy volatile-ttl",
        ),
    ] {
        let differs = compared(more, Slack::None).unwrap_err().to_string();
        assert!(differs.contains(wanted), "{more:?}: {differs}");
    }
}

#[test]
fn a_cache_may_be_a_little_above_its_limit_in_a_sidecar_alone() {
    let at = |limit: u64| format!("maxmemory:{limit}\nmaxmemory_policy:allkeys-lru\n");
    for (limit, slack, proved) in [
        (1000, Slack::None, true),
        (999, Slack::None, false),
        (999, Slack::Cache, true),
        (910, Slack::Cache, true),
        (900, Slack::Cache, false),
    ] {
        let compared = compared(&at(limit), slack);
        assert_eq!(compared.is_ok(), proved, "{limit} {slack:?}: {compared:?}");
    }
}

#[test]
fn one_that_evicts_nothing_is_told_of_its_limit() {
    let proof = compared("maxmemory:10\n", Slack::None).unwrap();
    let [note] = proof.notes() else {
        panic!("{:?}", proof.notes());
    };
    assert!(note.contains("takes no writes"), "{note}");
}

#[test]
fn what_cannot_be_counted_is_a_note_and_all_else_is_compared() {
    let unknown = Expected::Unknown("a module".to_owned());
    let before = Before::of(&facts(""));
    let compare = |more: &str| before.compare(&facts(more), &unknown, 1, PORT, Slack::None);
    compare("unexpected_error_replies:6\n").unwrap();
    assert!(compare("unexpected_error_replies:7\n").is_err());
    let proof = compare("db0:keys=99,expires=0\n").unwrap();
    assert!(proof.notes()[0].contains("a module"), "{proof:?}");
    assert!(compare("evicted_keys:8\n").is_err());
}

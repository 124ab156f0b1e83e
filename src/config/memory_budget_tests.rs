#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use super::*;

const MIB: usize = 1 << 20;
const NOTHING: Wanted = Wanted {
    segment_size: 8 * MIB,
    feed: None,
    consolidation: None,
};

fn own(bytes: usize) -> Option<CgroupLimit> {
    Some(CgroupLimit {
        bytes: bytes as u64,
        own: true,
    })
}

#[test]
fn the_shares_never_come_to_more_than_the_limit_and_use_most_of_it() {
    for mib in [128, 200, 256, 300, 512, 1000, 1024] {
        let budget = Budget::new(None, own(mib * MIB));
        let shares = budget.shares(NOTHING);
        assert!(shares.all() <= mib * MIB, "{mib}: {shares}");
        assert!(shares.all() > (mib - 1) * MIB, "{mib}: {shares}");
        assert!(
            shares.feed >= least_feed(NOTHING.segment_size),
            "{mib}: {shares}"
        );
        assert_eq!(budget.warning(NOTHING), None, "{mib}");
    }
}

#[test]
fn the_default_is_what_the_manifests_give() {
    let none = Budget::new(None, None);
    let in_the_pod = Budget::new(None, own(256 * MIB));
    assert_eq!(none.shares(NOTHING), in_the_pod.shares(NOTHING));
    let shares = in_the_pod.shares(NOTHING);
    assert_eq!(
        (
            shares.feed / MIB,
            shares.consolidation / MIB,
            shares.rest / MIB
        ),
        (64, 96, 96)
    );
}

#[test]
fn of_a_limit_that_others_share_no_more_than_the_default_is_taken() {
    let shared = Some(CgroupLimit {
        bytes: 64 << 30,
        own: false,
    });
    let default = Budget::new(None, None).shares(NOTHING);
    assert_eq!(Budget::new(None, shared).shares(NOTHING), default);
    // And of one's own no more than a gigabyte, unless it is asked for.
    let large = Budget::new(None, own(64 << 30)).shares(NOTHING);
    assert!(large.all() <= 1 << 30, "{large}");
    let asked = Budget::new(Some(4 << 30), own(64 << 30)).shares(NOTHING);
    assert!(asked.all() > 4095 * MIB, "{asked}");
}

#[test]
fn what_one_flag_takes_the_other_share_loses() {
    let budget = Budget::new(None, own(256 * MIB));
    let feed = Wanted {
        feed: Some(100 * MIB),
        ..NOTHING
    };
    assert_eq!(budget.shares(feed).consolidation / MIB, 60);
    assert_eq!(budget.warning(feed), None);
    let keys = Wanted {
        consolidation: Some(120 * MIB),
        ..NOTHING
    };
    assert_eq!(budget.shares(keys).feed / MIB, 40);
    assert_eq!(budget.warning(keys), None);
}

#[test]
fn what_does_not_fit_is_told_with_what_would() {
    let pod = Budget::new(None, own(256 * MIB));
    let both = Wanted {
        feed: Some(64 * MIB),
        consolidation: Some(256 * MIB),
        ..NOTHING
    };
    let warning = pod.warning(both).unwrap();
    assert!(warning.contains("together 416 MiB"), "{warning}");
    assert!(
        warning.contains("the 256 MiB of memory for this process (the limit of its cgroup)"),
        "{warning}"
    );
    assert!(warning.contains("leave out `feed_memory`"), "{warning}");
    // A limit below the least, and a budget beyond the limit.
    let small = Budget::new(None, own(64 * MIB));
    assert!(small.warning(NOTHING).unwrap().contains("`segment_size`"));
    let beyond = Budget::new(Some(512 * MIB), own(256 * MIB));
    let warning = beyond.warning(NOTHING).unwrap();
    assert!(
        warning.contains("of which its cgroup allows 256 MiB"),
        "{warning}"
    );
}

#[test]
fn a_command_that_ends_takes_what_it_always_took_unless_the_limit_is_lower() {
    assert_eq!(Budget::new(None, None).keys(1 << 30), 1 << 30);
    assert_eq!(Budget::new(None, own(4 << 30)).keys(1 << 30), 1 << 30);
    assert_eq!(Budget::new(None, own(512 * MIB)).keys(1 << 30) / MIB, 392);
    assert_eq!(
        Budget::new(None, own(32 * MIB)).keys(1 << 30),
        CONSOLIDATION_MIN
    );
}

//! What one version wrote, restored to another.

use super::{Home, restore};
use crate::support::data::{Expiries, Load};
use crate::support::state::{Moment, State, quiet, tolerance_ms};
use crate::support::{Server, Version};

fn captured(version: Version) -> (Home, Server, Moment) {
    let home = Home::new(version);
    let redis = Server::start(version, &[]);
    let load = Load::start(&redis, 8, Expiries::Mixed);
    let backfeed = home.backup(&redis);
    backfeed.wait_following();
    load.wait(1000);
    load.stop();
    let last = quiet(&redis, 1);
    (home, redis, last)
}

#[test]
fn newer_versions_take_what_older_ones_wrote() {
    for (from, to) in [
        (Version::Redis60, Version::Redis62),
        (Version::Redis62, Version::Redis70),
        (Version::Redis70, Version::Redis86),
        (Version::Redis70, Version::Valkey91),
        (Version::Valkey81, Version::Valkey91),
    ] {
        let (home, _redis, last) = captured(from);
        let target = Server::start(to, &[]);
        home.restore(&target.url(), &[]);
        let found = State::of(&target);
        let context = format!("{from} to {to}");
        // Versions send groups and functions in different ways. The data must not differ.
        let wanted = State {
            groups: found.groups.clone(),
            functions: found.functions.clone(),
            ..last.state
        };
        found.assert_is(&wanted, tolerance_ms(from), &context);
    }
}

#[test]
fn older_versions_are_refused_before_anything_is_touched() {
    for (from, to, reason) in [
        (
            Version::Redis86,
            Version::Redis70,
            "is Redis 7.0.15, which does not load a snapshot of format REDIS0013 (written by Redis 8.6",
        ),
        (
            Version::Valkey91,
            Version::Valkey81,
            "which does not load a snapshot of format VALKEY080 (written by Valkey 9.1",
        ),
        (
            Version::Redis86,
            Version::Valkey91,
            "which does not load a snapshot of format REDIS0013 (written by Redis 8.6",
        ),
    ] {
        let (home, _redis, _) = captured(from);
        let target = Server::start(to, &[]);
        let () = redis::cmd("SET")
            .arg("mine")
            .arg(1)
            .query(&mut target.connect())
            .unwrap();
        let before = (target.debug_digest(), target.position());
        for force in [&[][..], &["--force"]] {
            let output = restore(&home.store(), &target.url(), force);
            assert_eq!(output.code, 4, "{from} to {to}: {output:?}");
            for part in [
                &target.addr(),
                reason,
                "of the version that was backed up, or newer",
                "Nothing was changed there",
            ] {
                assert!(
                    output.stderr.contains(part),
                    "{from} to {to}: {part:?} not in {output:?}"
                );
            }
        }
        assert_eq!((target.debug_digest(), target.position()), before);
    }
}

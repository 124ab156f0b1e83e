#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::super::testing::{REDIS_13, empty, keys};
use super::*;

use crate::model::{ApplyError, Footprint};

#[test]
fn databases_are_selected_swapped_and_flushed() {
    let mut space = empty(REDIS_13);
    for command in [
        "SET a 1",
        "PING",
        "select 1",
        "SET b 1",
        "MULTI",
        "SWAPDB 1 2",
        "EXEC",
        "SET c 1",
        "REPLCONF GETACK *",
        "PUBLISH c m",
        "SPUBLISH c m",
        "SCRIPT LOAD x",
        "FUNCTION FLUSH",
    ] {
        space.run(command).unwrap();
    }
    assert_eq!(keys(&space), ["0:a", "1:c", "2:b"]);
    space.run("flushdb async").unwrap();
    assert_eq!(keys(&space), ["0:a", "2:b"]);
    space.run("FLUSHALL").unwrap();
    space.run("SET x 1").unwrap();
    assert_eq!(keys(&space), ["1:x"]);
}

#[test]
fn what_is_not_modelled_is_refused_before_it_is_applied() {
    for command in [
        "EVAL x 0",
        "evalsha x 0",
        "FCALL f 0",
        "RREPLAY x",
        "CLUSTER MEET x",
        "CLUSTER",
        "TRIMSLOTS x",
        "JSON.SET k",
        "DEBUG x",
        "SFLUSH",
    ] {
        let argv: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let noted = Footprint::new(0).note(&argv);
        assert!(noted.unwrap_err().is_unmodelled(), "{command}");
    }
    // Their keys are known, and no other ones are lost.
    for command in ["VADD k", "VREM k x", "VSETATTR k x y", "SPOP k 2"] {
        let argv: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let mut footprint = Footprint::new(0);
        footprint.note(&argv).unwrap();
        assert!(footprint.lost().eq([(0, &b"k"[..])]), "{command}");
        let error = empty(REDIS_13).run(command).unwrap_err();
        assert!(error.is_unmodelled(), "{command}");
    }
}

#[test]
fn slots_are_those_of_the_cluster_specification() {
    // CLUSTER KEYSLOT of a server.
    for (key, slot) in [
        (&b"123456789"[..], 0x31C3),
        (b"", 0),
        (b"foo", 12_182),
        (b"x{foo}y", 12_182),
        (b"{foo}{bar}", 12_182),
        (b"foo{}{bar}", 8363),
        (b"{{bar}}", 4015),
        (b"{foo", 13_308),
    ] {
        assert_eq!(slot_of(key), slot, "{}", key.escape_ascii());
    }
}

#[test]
fn keys_of_slots_are_deleted_in_all_databases() {
    let foo = slot_of(b"foo");
    for (command, left) in [
        (format!("CLUSTER FLUSHSLOT {foo} ASYNC"), &["0:bar"][..]),
        (
            format!("cluster setslot {foo} NODE x"),
            &["0:bar", "0:foo", "1:{foo}x"],
        ),
        (
            "CLUSTER SYNCSLOTS FINISH x".into(),
            &["0:bar", "0:foo", "1:{foo}x"],
        ),
        (format!("TRIMSLOTS RANGES 2 0 0 {foo} {foo}"), &["0:bar"]),
        (format!("SFLUSH 0 1 {} {foo} SYNC", foo - 1), &["0:bar"]),
        ("SFLUSH 0 16383".into(), &[]),
    ] {
        let mut space = empty(REDIS_13);
        for before in [
            "SET foo 1",
            "SET bar 1",
            "SELECT 1",
            "SET {foo}x 1",
            &command,
        ] {
            space.run(before).unwrap();
        }
        assert_eq!(keys(&space), left, "{command}");
        let argv: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let mut footprint = Footprint::new(0);
        footprint.note(&argv).unwrap();
        let noted = footprint
            .slots()
            .iter()
            .any(|(a, b)| (*a..=*b).contains(&foo));
        assert_eq!(noted, left.len() < 3, "{command}");
    }
    let mut space = empty(REDIS_13);
    for command in [
        "SFLUSH 0 16384",
        "SFLUSH 1",
        "CLUSTER FLUSHSLOT -1",
        "TRIMSLOTS RANGES 2 0 0",
    ] {
        let result = space.run(command);
        assert!(
            matches!(result, Err(ApplyError::Diverged { .. })),
            "{command}"
        );
    }
}

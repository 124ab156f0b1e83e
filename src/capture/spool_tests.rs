#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn spool(dir: &std::path::Path, limit: u64) -> (Spool, Status) {
    let status = Status::new();
    let config = SpoolConfig {
        dir: dir.to_owned(),
        limit,
    };
    (Spool::new(&config, &status), status)
}

fn bytes(fill: u8, length: usize) -> [Bytes; 2] {
    let all = Bytes::from(vec![fill; length]);
    [all.slice(..length / 2), all.slice(length / 2..)]
}

#[test]
fn what_is_put_comes_back_and_its_space_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, status) = spool(dir.path(), 4 << 20);
    let mut records = Vec::new();
    while let Some(record) = spool.put(&bytes(records.len() as u8, 300_000)) {
        records.push(record);
    }
    assert_eq!(records.len(), 13, "4 MiB and no more");
    assert_eq!(spool.used(), 13 * 300_000);
    assert_eq!(status.view().spool_bytes, spool.used());
    assert!(!spool.has_room());
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "no names"
    );
    for (fill, record) in records.iter().enumerate() {
        assert_eq!(record.read().unwrap(), bytes(fill as u8, 300_000).concat());
    }
    // Four records to a file of 1 MiB: it goes with the last of them.
    records.drain(..3);
    assert_eq!(spool.used(), 13 * 300_000);
    records.remove(0);
    assert_eq!(spool.used(), 9 * 300_000);
    // So does one that is not full.
    drop(records);
    assert_eq!(spool.used(), 0);
    assert!(spool.put(&bytes(1, 300_000)).is_some());
    assert_eq!(status.view().spool_error, None);
}

#[test]
fn lost_and_changed_bytes_are_told_with_what_comes_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, status) = spool(dir.path(), 4 << 20);
    let first = spool.put(&bytes(1, 1000)).unwrap();
    let second = spool.put(&bytes(2, 1000)).unwrap();
    let held = |record: &Record| Held::Spooled {
        record: record.clone(),
        from: 10,
        len: 20,
    };
    let pieces = [
        Held::Memory(Bytes::from_static(b"abc")),
        held(&first),
        held(&second),
    ];
    let loaded = load(&pieces).unwrap();
    assert_eq!(loaded.concat(), [&b"abc"[..], &[1; 20], &[2; 20]].concat());

    first.file.file.write_all_at(b"x", 1500).unwrap();
    let (before, error) = load(&pieces).unwrap_err();
    assert_eq!(before, 23);
    assert!(matches!(error, SpoolError::Damaged { .. }), "{error}");
    first.file.file.set_len(900).unwrap();
    let (before, error) = load(&pieces).unwrap_err();
    assert_eq!(before, 3);
    assert!(
        error
            .to_string()
            .contains("cannot read from the spool in /"),
        "{error}"
    );

    spool.lost(&error);
    assert_eq!(status.view().spool_error, Some(error.to_string()));
    assert_eq!(status.metrics().spool_errors.get(), 1);
    assert!(spool.put(&bytes(3, 10)).is_none(), "it rests");
    spool.0.state().resting = None;
    assert!(
        spool.put(&bytes(3, 10)).unwrap().read().is_ok(),
        "in a new file"
    );
    assert_eq!(status.view().spool_error, None);
}

#[test]
fn a_directory_that_is_missing_is_told_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("later");
    let (spool, status) = spool(&missing, 4 << 20);
    let told = status.view().spool_error.unwrap();
    assert!(
        told.contains("cannot write to the spool in /") && told.contains("later"),
        "{told}"
    );
    std::fs::create_dir(&missing).unwrap();
    assert!(spool.put(&bytes(1, 10)).is_none(), "it rests");
    spool.0.state().resting = None;
    assert!(spool.put(&bytes(1, 10)).is_some());
    assert_eq!(status.view().spool_error, None);
}

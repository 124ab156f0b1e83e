#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::super::payload::tests::unhex;
use super::*;

fn library(name: &str, number: u32) -> Vec<u8> {
    format!("#!lua name={name}\nredis.register_function('{name}', function() return {number} end)")
        .into_bytes()
}

fn apply(libraries: &mut Libraries, command: &[&[u8]]) -> Result<(), ApplyError> {
    let command: Vec<Blob> = command.iter().map(|arg| Blob::from(*arg)).collect();
    libraries.apply(&command)
}

fn sources(libraries: &Libraries) -> Vec<&[u8]> {
    libraries.sources().collect()
}

#[test]
fn libraries_are_loaded_replaced_deleted_and_flushed() {
    let mut libraries = Libraries::new();
    let (a, b) = (library("a", 1), library("b", 1));
    libraries.load(&b).unwrap();
    assert!(libraries.load(&b).is_err());
    apply(&mut libraries, &[b"FUNCTION", b"LOAD", &a]).unwrap();
    assert_eq!(
        (libraries.len(), sources(&libraries)),
        (2, vec![&a[..], &b])
    );
    let again = apply(&mut libraries, &[b"FUNCTION", b"LOAD", &library("a", 2)]);
    assert!(matches!(again, Err(ApplyError::Diverged { .. })));
    let newer = library("a", 3);
    apply(&mut libraries, &[b"function", b"load", b"replace", &newer]).unwrap();
    assert_eq!(sources(&libraries), [&newer[..], &b]);
    apply(&mut libraries, &[b"FUNCTION", b"DELETE", b"b"]).unwrap();
    let again = apply(&mut libraries, &[b"FUNCTION", b"DELETE", b"b"]);
    assert!(matches!(again, Err(ApplyError::Diverged { .. })));
    apply(&mut libraries, &[b"FUNCTION", b"FLUSH", b"ASYNC"]).unwrap();
    assert!(libraries.is_empty());
    assert!(
        apply(&mut libraries, &[b"FUNCTION", b"KILL"])
            .unwrap_err()
            .is_unmodelled()
    );
}

#[test]
fn dumps_of_servers_are_restored() {
    // FUNCTION DUMP of Redis 8.6.3.
    let dump = unhex(
        "f5404423216c7561206e616d653d6f6e650a72656469732e72656769737465725f66756e6374696f6e282266222c20\
         66756e6374696f6e28292072657475726e203120656e64290d007b35aff8d9cd449d",
    );
    let one = b"#!lua name=one\nredis.register_function(\"f\", function() return 1 end)";
    let mut libraries = Libraries::new();
    libraries.load(&library("a", 1)).unwrap();
    apply(&mut libraries, &[b"FUNCTION", b"RESTORE", &dump]).unwrap();
    assert_eq!(sources(&libraries), [&library("a", 1)[..], one]);
    let again = apply(&mut libraries, &[b"FUNCTION", b"RESTORE", &dump, b"append"]);
    assert!(matches!(again, Err(ApplyError::Diverged { .. })));

    libraries = Libraries::new();
    libraries.load(&library("a", 1)).unwrap();
    libraries.load(&library("one", 1)).unwrap();
    apply(
        &mut libraries,
        &[b"FUNCTION", b"RESTORE", &dump, b"REPLACE"],
    )
    .unwrap();
    assert_eq!(sources(&libraries), [&library("a", 1)[..], one]);
    apply(&mut libraries, &[b"FUNCTION", b"RESTORE", &dump, b"flush"]).unwrap();
    assert_eq!(sources(&libraries), [one]);
    for payload in [&dump[..9], b"", &dump[1..]] {
        let result = apply(
            &mut libraries,
            &[b"FUNCTION", b"RESTORE", payload, b"REPLACE"],
        );
        assert!(result.unwrap_err().is_unmodelled());
    }
    let result = apply(&mut libraries, &[b"FUNCTION", b"RESTORE", &dump, b"KEEP"]);
    assert!(result.unwrap_err().is_unmodelled());
}

#[test]
fn names_are_read_as_servers_read_them() {
    for (source, name) in [
        ("#!lua name=a\n", Some("a")),
        ("#!lua NAME=A_9 \t\r\nname=b", Some("A_9")),
        ("#!lua \t name='a'\n", Some("a")),
        ("#!lua 'name=a'\n", Some("a")),
        ("#!lua name=\"\\x61\\b\"\n", None),
        ("#!lua name=\"\\x61b\\c\"\n", Some("abc")),
        ("#!lua name=\"a\"b\n", None),
        ("#!lua name='a\n", None),
        ("#!lua name=a", None),
        ("lua name=a\n", None),
        ("#!lua\n", None),
        ("#!lua name=a name=b\n", None),
        ("#!lua name=a engine=b\n", None),
        ("#!lua name=\n", None),
        ("#!lua name=a-b\n", None),
        ("#!lua nam\n", None),
        ("#!lua\0name=a\n", None),
    ] {
        let found = name_of(source.as_bytes()).ok();
        assert_eq!(found.as_deref(), name.map(str::as_bytes), "{source:?}");
    }
}

//! Makes the relative expiries of old servers absolute.
//!
//! Redis up to 6.2 and KeyDB send relative TTLs as the client gave them (PROTOCOL.md C.4). A later replay of such a log
//! would make lives longer. So wherever such a log is served or exported, these commands are replaced by forms with the
//! absolute time (receive time + TTL). Only commands that Redis 6.0 knows are used (`SET k v`, then `PEXPIREAT`, not
//! `PXAT`). An expiry in the past is kept as it is: the target decides, as with any other key.

pub mod feed;

use bytes::Bytes;

use crate::wire::resp::{HEAD_ARGS, Head};

/// Does [`rewrite`] look at this command? Decided only by name and number of arguments, so a reader can decide before a
/// value of any size has come. `true` for some commands that [`rewrite`] leaves as they are.
#[must_use]
pub fn may_need_rewrite(name: &[u8], argument_count: usize) -> bool {
    kind_of(name).is_some_and(|kind| match kind {
        Kind::Set => argument_count > 4, // `SET key value EX 10`
        Kind::Getex => argument_count > 3,
        Kind::SetWithTtl(_) | Kind::Restore => argument_count >= 4,
        Kind::Expire(_) => argument_count >= 3,
        Kind::ExpireMember => argument_count >= 4,
    })
}

/// Does this command, of which only the head is known, give an expiry relative to now? Servers from 7.0 on send no such
/// commands (PROTOCOL.md C.4).
#[must_use]
pub fn is_relative(head: &Head) -> bool {
    let option = |from: usize, words: [&str; 2]| {
        (from..HEAD_ARGS).any(|index| words.iter().any(|word| head.arg_is(index, word)))
    };
    match head.arg(0).and_then(kind_of) {
        None => false,
        Some(Kind::Set) => option(3, ["EX", "PX"]),
        Some(Kind::Getex) => option(2, ["EX", "PX"]),
        Some(Kind::Restore) => head.number(2) != Some(0) && !option(4, ["ABSTTL", "ABSTTL"]),
        Some(Kind::SetWithTtl(_) | Kind::Expire(_) | Kind::ExpireMember) => true,
    }
}

/// Does [`rewrite`] replace this command?
#[must_use]
pub fn needs_rewrite(args: &[Bytes]) -> bool {
    rewrite(args, 0).is_some()
}

/// The commands that replace this one, when it was received at that time (Unix milliseconds). `None` leaves it as it
/// is. A TTL that is not a number is also left as it is: no server would have accepted it.
#[must_use]
pub fn rewrite(args: &[Bytes], received_unix_ms: i64) -> Option<Vec<Vec<Bytes>>> {
    let (name, rest) = args.split_first()?;
    let at = |ttl: &Bytes, unit: Unit| unit.absolute(ttl, received_unix_ms);
    match (kind_of(name)?, rest) {
        (Kind::Set, [key, value, options @ ..]) => set(key, value, options, received_unix_ms),
        (Kind::SetWithTtl(unit), [key, ttl, value]) => Some(vec![
            vec![Bytes::from_static(b"SET"), key.clone(), value.clone()],
            pexpireat(key, at(ttl, unit)?, &[]),
        ]),
        (Kind::Expire(unit), [key, ttl, options @ ..]) => {
            Some(vec![pexpireat(key, at(ttl, unit)?, options)])
        }
        (Kind::Getex, [key, option, ttl]) => {
            let unit = Unit::of_option(option)?;
            Some(vec![pexpireat(key, at(ttl, unit)?, &[])])
        }
        (Kind::Restore, [key, ttl, payload, options @ ..]) => {
            restore(name, key, ttl, payload, options, received_unix_ms)
        }
        (Kind::ExpireMember, [key, member, ttl, options @ ..]) => {
            let unit = match options {
                [unit] if unit.eq_ignore_ascii_case(b"ms") => Unit::Milliseconds,
                _ => Unit::Seconds,
            };
            let time = decimal(at(ttl, unit)?);
            let command = Bytes::from_static(b"PEXPIREMEMBERAT");
            Some(vec![vec![command, key.clone(), member.clone(), time]])
        }
        _ => None,
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Set,
    SetWithTtl(Unit),
    Expire(Unit),
    Getex,
    Restore,
    ExpireMember,
}

/// Names in any case: the feed keeps the client's spelling.
fn kind_of(name: &[u8]) -> Option<Kind> {
    const KINDS: [(&[u8], Kind); 9] = [
        (b"set", Kind::Set),
        (b"setex", Kind::SetWithTtl(Unit::Seconds)),
        (b"psetex", Kind::SetWithTtl(Unit::Milliseconds)),
        (b"expire", Kind::Expire(Unit::Seconds)),
        (b"pexpire", Kind::Expire(Unit::Milliseconds)),
        (b"getex", Kind::Getex),
        (b"restore", Kind::Restore),
        (b"restore-asking", Kind::Restore),
        (b"expiremember", Kind::ExpireMember), // KeyDB (PROTOCOL.md C.9.3)
    ];
    KINDS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, kind)| *kind)
}

#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Milliseconds,
    SecondsAt,
    MillisecondsAt,
}

impl Unit {
    fn of_option(option: &[u8]) -> Option<Self> {
        const UNITS: [(&[u8], Unit); 4] = [
            (b"ex", Unit::Seconds),
            (b"px", Unit::Milliseconds),
            (b"exat", Unit::SecondsAt),
            (b"pxat", Unit::MillisecondsAt),
        ];
        UNITS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(option))
            .map(|(_, unit)| *unit)
    }

    /// Unix milliseconds of the expiry.
    fn absolute(self, ttl: &[u8], received_unix_ms: i64) -> Option<i64> {
        let ttl: i64 = std::str::from_utf8(ttl).ok()?.parse().ok()?;
        Some(match self {
            Unit::Seconds => ttl.saturating_mul(1000).saturating_add(received_unix_ms),
            Unit::Milliseconds => ttl.saturating_add(received_unix_ms),
            Unit::SecondsAt => ttl.saturating_mul(1000),
            Unit::MillisecondsAt => ttl,
        })
    }
}

/// `SET k v … EX|PX|EXAT|PXAT n …` → `SET k v …` and `PEXPIREAT k ms`. (6.2 may send `PXAT`, which 6.0 does not know.)
fn set(
    key: &Bytes,
    value: &Bytes,
    options: &[Bytes],
    received_unix_ms: i64,
) -> Option<Vec<Vec<Bytes>>> {
    let mut kept = vec![Bytes::from_static(b"SET"), key.clone(), value.clone()];
    let mut expiry = None;
    let mut left = options.iter();
    while let Some(option) = left.next() {
        match Unit::of_option(option) {
            Some(unit) => expiry = Some(unit.absolute(left.next()?, received_unix_ms)?),
            None => kept.push(option.clone()),
        }
    }
    Some(vec![kept, pexpireat(key, expiry?, &[])])
}

/// `RESTORE key ttl payload …` → the absolute time and `ABSTTL`. A TTL of 0 means none.
fn restore(
    name: &Bytes,
    key: &Bytes,
    ttl: &Bytes,
    payload: &Bytes,
    options: &[Bytes],
    received_unix_ms: i64,
) -> Option<Vec<Vec<Bytes>>> {
    let absolute = options
        .iter()
        .any(|option| option.eq_ignore_ascii_case(b"absttl"));
    if absolute || ttl.as_ref() == b"0" {
        return None;
    }
    let time = decimal(Unit::Milliseconds.absolute(ttl, received_unix_ms)?);
    let mut command = vec![name.clone(), key.clone(), time, payload.clone()];
    command.extend_from_slice(options);
    command.push(Bytes::from_static(b"ABSTTL"));
    Some(vec![command])
}

fn pexpireat(key: &Bytes, unix_ms: i64, options: &[Bytes]) -> Vec<Bytes> {
    let mut command = vec![
        Bytes::from_static(b"PEXPIREAT"),
        key.clone(),
        decimal(unix_ms),
    ];
    command.extend_from_slice(options);
    command
}

fn decimal(number: i64) -> Bytes {
    Bytes::from(number.to_string())
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<Bytes> {
        line.split(' ')
            .map(|word| Bytes::from(word.to_owned()))
            .collect()
    }

    fn rewritten(line: &str) -> Option<Vec<String>> {
        let commands = rewrite(&args(line), 1_000_000)?;
        let text = |args: &Vec<Bytes>| {
            let words: Vec<&str> = args
                .iter()
                .map(|arg| std::str::from_utf8(arg).unwrap())
                .collect();
            words.join(" ")
        };
        Some(commands.iter().map(text).collect())
    }

    #[test]
    fn relative_forms_of_the_table_become_absolute() {
        // PROTOCOL.md C.9, column "older versions", received at 1000 s
        for (line, wanted) in [
            ("SET k v EX 100", &["SET k v", "PEXPIREAT k 1100000"][..]),
            ("set k v px 100", &["SET k v", "PEXPIREAT k 1000100"]),
            ("SET k v NX Px 5", &["SET k v NX", "PEXPIREAT k 1000005"]),
            ("SET k v EX 1 XX", &["SET k v XX", "PEXPIREAT k 1001000"]),
            ("SET k v PXAT 77", &["SET k v", "PEXPIREAT k 77"]),
            ("SET k v EXAT 77", &["SET k v", "PEXPIREAT k 77000"]),
            ("SETEX k 10 v", &["SET k v", "PEXPIREAT k 1010000"]),
            ("PsetEX k 10 v", &["SET k v", "PEXPIREAT k 1000010"]),
            ("EXPIRE k 10", &["PEXPIREAT k 1010000"]),
            ("expire k -1", &["PEXPIREAT k 999000"]),
            ("PEXPIRE k 10", &["PEXPIREAT k 1000010"]),
            ("PEXPIRE k 10 NX", &["PEXPIREAT k 1000010 NX"]),
            ("GETEX k EX 1", &["PEXPIREAT k 1001000"]),
            (
                "RESTORE k 500 payload",
                &["RESTORE k 1000500 payload ABSTTL"],
            ),
            (
                "RESTORE k 500 p REPLACE FREQ 3",
                &["RESTORE k 1000500 p REPLACE FREQ 3 ABSTTL"],
            ),
            (
                "RESTORE-ASKING k 500 p",
                &["RESTORE-ASKING k 1000500 p ABSTTL"],
            ),
            ("EXPIREMEMBER k m 5", &["PEXPIREMEMBERAT k m 1005000"]),
            ("EXPIREMEMBER k m 5 ms", &["PEXPIREMEMBERAT k m 1000005"]),
        ] {
            assert_eq!(
                rewritten(line).as_deref(),
                Some(&wanted.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{line}"
            );
            let args = args(line);
            assert!(
                needs_rewrite(&args) && may_need_rewrite(&args[0], args.len()),
                "{line}"
            );
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for line in [
            "SET k v",
            "SET k v KEEPTTL",
            "SET k EX 10",
            "SET k v EX",
            "SET k v EX ten",
            "EXPIREAT k 10",
            "PEXPIREAT k 10",
            "PERSIST k",
            "GETEX k PERSIST",
            "RESTORE k 0 payload",
            "RESTORE k 0 payload REPLACE",
            "RESTORE k 1500 payload ABSTTL",
            "RESTORE k 1500 payload REPLACE absttl",
            "HSET EX 10 20",
            "EXPIRE k",
            "PING",
            "MULTI",
        ] {
            assert_eq!(rewritten(line), None, "{line}");
            assert!(!needs_rewrite(&args(line)), "{line}");
        }
        assert!(
            !may_need_rewrite(b"set", 3),
            "a plain SET of any size passes through"
        );
        assert!(!may_need_rewrite(b"lpush", 1000));
        assert_eq!(rewrite(&[], 0), None);
    }

    #[test]
    fn times_beyond_the_range_are_held_at_its_end() {
        assert_eq!(
            rewritten("EXPIRE k 9223372036854775807").unwrap(),
            ["PEXPIREAT k 9223372036854775807"]
        );
    }

    #[test]
    fn values_are_bytes() {
        let value = Bytes::from_static(b"\r\n\0\xff EX");
        let set = [b"set".as_slice(), b"k", &value, b"ex", b"1"].map(Bytes::copy_from_slice);
        let out = rewrite(&set, 0).unwrap();
        assert_eq!(out[0][2], value);
    }
}

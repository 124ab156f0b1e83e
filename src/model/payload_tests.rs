#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::super::testing::REDIS_13;
use super::*;

use crate::model::Raw;

pub(crate) fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

const VALKEY: Dialect = Dialect {
    family: Family::Valkey,
    version: 80,
};

fn redis(version: u32) -> Dialect {
    Dialect {
        family: Family::Redis,
        version,
    }
}

#[test]
fn footers_of_servers_are_taken_off() {
    for (dump, body, dialect) in [
        (
            "000568656c6c6f0d00c1db56c5628157ca",
            "000568656c6c6f",
            REDIS_13,
        ),
        (
            "000568656c6c6f5000ac5816e7fb6647fe",
            "000568656c6c6f",
            VALKEY,
        ),
        ("02020161016209002e9670e9bf855ebc", "020201610162", redis(9)),
        (
            "000568656c6c6f0d000000000000000000",
            "000568656c6c6f",
            REDIS_13,
        ),
    ] {
        let dump = unhex(dump);
        let payload = Payload::open(&dump).unwrap();
        assert_eq!((payload.body, payload.dialect), (&*unhex(body), dialect));
    }
    let mut wrong = unhex("000568656c6c6f0d00c1db56c5628157ca");
    wrong[3] ^= 1;
    assert!(Payload::open(&wrong).is_err());
    assert!(Payload::open(&wrong[..9]).is_err());
    assert!(Payload::open(b"").is_err());
    let raw = Raw {
        kind: 0,
        payload: Box::from(&b"\x05hello"[..]),
    };
    assert!(raw.decode(VALKEY).is_ok());
}

#[test]
fn values_go_only_where_their_type_is_known() {
    for (kind, from, to, expected) in [
        (0, REDIS_13, redis(9), Fit::AsItIs),
        (15, redis(9), VALKEY, Fit::AsItIs),
        (17, redis(10), redis(10), Fit::AsItIs),
        (17, REDIS_13, redis(9), Fit::Repacked),
        (20, REDIS_13, redis(10), Fit::Repacked),
        (20, VALKEY, redis(11), Fit::AsItIs),
        (21, REDIS_13, redis(10), Fit::Not),
        (22, VALKEY, VALKEY, Fit::AsItIs),
        (22, VALKEY, redis(11), Fit::Not),
        (22, VALKEY, REDIS_13, Fit::Not),
        (25, redis(12), REDIS_13, Fit::AsItIs),
        (25, REDIS_13, redis(11), Fit::Not),
        (25, REDIS_13, VALKEY, Fit::Not),
        (26, REDIS_13, redis(12), Fit::Not),
        (28, redis(14), REDIS_13, Fit::Not),
        (6, REDIS_13, REDIS_13, Fit::Not),
    ] {
        assert_eq!(fit(kind, from, to), expected, "{kind} {from:?} {to:?}");
    }
}

#[test]
fn the_end_of_a_modules_value_is_found() {
    let value = b"\x81\x12\x34\x56\x78\x9a\xbc\xde\xf0\x02\x07\x05\x02hi\x03abcd\x04abcdefgh\x00";
    assert!(check_module(value).is_ok());
    for end in 0..value.len() {
        assert!(check_module(&value[..end]).is_err(), "{end}");
    }
    assert!(check_module(&[value, &b"\0"[..]].concat()).is_err());
    assert!(check_module(b"\x01\x06\x00").is_err());
}

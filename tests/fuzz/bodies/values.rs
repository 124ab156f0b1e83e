//! Values: the samples of real servers, and what must hold of every value that can be decoded.

use backfeed::model::{Dialect, Raw, Value};
use backfeed::wire::rdb::Family;
use backfeed::wire::rdb::cursor::Cursor;

/// Values of every type and encoding.
const SAMPLES: &str = include_str!("../values.txt");

/// A value that a server wrote.
#[derive(Clone, Debug)]
pub struct Sample {
    pub server: &'static str,
    pub dialect: Dialect,
    pub raw: Raw,
}

pub fn samples() -> Vec<Sample> {
    let lines = SAMPLES.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let version: u32 = words[1].parse().unwrap();
        let family = match version {
            80.. => Family::Valkey,
            _ => Family::Redis,
        };
        Sample {
            server: words[0],
            dialect: Dialect { family, version },
            raw: Raw {
                kind: words[2].parse().unwrap(),
                payload: unhex(words[3]).into(),
            },
        }
    });
    samples.collect()
}

pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// What can be decoded can be written and read again, and is the same then. Gives whether it could be decoded.
pub fn check(raw: &Raw, dialect: Dialect) -> bool {
    let Ok(value) = raw.decode(dialect) else {
        return false;
    };
    check_value(&value, dialect);
    true
}

/// The same of a value as commands left it.
pub fn check_value(value: &Value, dialect: Dialect) {
    let once = encoded(value, dialect);
    let again = once.decode(dialect);
    let again = again.unwrap_or_else(|bad| panic!("{bad}: {once:?} of {value:?}"));
    assert_eq!(again.is_empty(), value.is_empty());
    let twice = encoded(&again, dialect);
    assert_eq!(in_order(&once), in_order(&twice), "of {value:?}");
}

fn encoded(value: &Value, dialect: Dialect) -> Raw {
    let mut payload = Vec::new();
    let kind = value.encode(dialect, &mut payload);
    Raw {
        kind,
        payload: payload.into(),
    }
}

/// A plain set is written in no order.
pub fn in_order(raw: &Raw) -> (u8, Vec<Vec<u8>>) {
    const SET: u8 = 2;
    const SET_LISTPACK: u8 = 20;
    let mut parts = Vec::new();
    let mut input = Cursor::new(&raw.payload);
    match raw.kind {
        SET => {
            for _ in 0..input.number().unwrap() {
                parts.push(input.string().unwrap().into_owned());
            }
            parts.sort();
        }
        SET_LISTPACK => {
            let blob = input.string().unwrap();
            let elements = backfeed::wire::rdb::packed::listpack(&blob).unwrap();
            parts.extend(elements.iter().map(|element| element.to_bytes().into_vec()));
            parts.sort();
        }
        _ => parts.push(raw.payload.to_vec()),
    }
    (raw.kind, parts)
}

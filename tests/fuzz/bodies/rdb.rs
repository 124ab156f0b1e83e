//! A whole RDB through the reader, and every value in it.

use backfeed::model::{Dialect, Raw};
use backfeed::wire::crc64::Crc64;
use backfeed::wire::rdb::cursor::put_string;
use backfeed::wire::rdb::magic;
use backfeed::wire::rdb::reader::{Fate, Item, ReadError, Reader, Sink};

use super::{choice, values};

/// More than the inputs have.
const LIMIT: usize = 1 << 20;

/// Database, name, expiry, records before it, type and payload of a key.
type Taken = (u32, Vec<u8>, Option<i64>, Vec<u8>, u8, Vec<u8>);

/// What came out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Out {
    /// What passed by and the records, in order.
    raw: Vec<u8>,
    taken: Vec<Taken>,
    mode: u8,
}

impl Sink for Out {
    type Error = std::convert::Infallible;

    fn record(&mut self, _: u8, raw: &[u8]) -> Result<(), Self::Error> {
        self.raw.extend_from_slice(raw);
        Ok(())
    }

    fn fate(&mut self, _: u32, key: &[u8], _: u8, _: bool) -> Fate {
        match self.mode {
            0 => Fate::Pass,
            1 => Fate::Take,
            _ => match key.first().copied().unwrap_or_default() % 3 {
                0 => Fate::Pass,
                1 => Fate::Take,
                _ => Fate::Drop,
            },
        }
    }

    fn pass(&mut self, raw: &[u8]) -> Result<(), Self::Error> {
        assert!(!raw.is_empty());
        self.raw.extend_from_slice(raw);
        Ok(())
    }

    fn item(&mut self, item: Item<'_>) -> Result<(), Self::Error> {
        self.taken.push((
            item.db,
            item.key.to_vec(),
            item.expiry,
            item.prefix.to_vec(),
            item.kind,
            item.payload.to_vec(),
        ));
        Ok(())
    }
}

fn read(bytes: &[u8], size: usize, mode: u8) -> (Out, Result<(), String>) {
    let mut reader = Reader::new(LIMIT);
    let mut out = Out {
        mode,
        ..Out::default()
    };
    for chunk in bytes.chunks(size) {
        if let Err(error) = reader.push(chunk, &mut out) {
            return (out, Err(error.to_string()));
        }
    }
    let finished: Result<_, ReadError<std::convert::Infallible>> = reader.finish();
    let finished = finished.map(drop).map_err(|error| error.to_string());
    (out, finished)
}

/// Is it an RDB from its first to its last byte?
pub fn is_sound(bytes: &[u8]) -> bool {
    read(bytes, bytes.len().max(1), 0).1.is_ok()
}

/// However it is cut, the same comes out; what passes by is what came in; what is taken can be decoded, or not.
pub fn check(data: &[u8]) {
    let Some((choice, body)) = choice(data) else {
        return;
    };
    // A right checksum, which no mutation finds.
    let sealed = (choice & 0x80 != 0).then(|| {
        let mut sealed = body.to_vec();
        sealed.push(0xFF);
        sealed.extend(Crc64::of(&sealed).to_le_bytes());
        sealed
    });
    let bytes = sealed.as_deref().unwrap_or(body);
    let size = usize::from(choice & 0x1F) + 1;
    let mode = choice >> 5 & 3;
    let (whole, result) = read(bytes, bytes.len().max(1), mode);
    let (pieces, same_result) = read(bytes, size, mode);
    // Which of two errors is met first depends on the cut.
    assert_eq!(
        result.is_ok(),
        same_result.is_ok(),
        "{result:?}, {same_result:?}"
    );
    if result.is_ok() {
        assert_eq!(whole, pieces);
        if mode == 0 {
            assert!(bytes.starts_with(&whole.raw));
            assert!(
                bytes.len() - whole.raw.len() <= 8,
                "the checksum alone is kept back"
            );
        }
    }
    let Some((family, version)) = bytes.get(..9).and_then(magic) else {
        return;
    };
    for (_, _, _, _, kind, payload) in whole.taken {
        let raw = Raw {
            kind,
            payload: payload.into(),
        };
        values::check(&raw, Dialect { family, version });
    }
}

/// One RDB for each server, with all its values.
pub fn rdbs() -> Vec<Vec<u8>> {
    let samples = values::samples();
    let mut rdbs = Vec::new();
    for group in samples.chunk_by(|a, b| a.server == b.server && a.dialect == b.dialect) {
        let dialect = group[0].dialect;
        let mut bytes = match dialect.family {
            backfeed::wire::rdb::Family::Redis => format!("REDIS{:04}", dialect.version),
            backfeed::wire::rdb::Family::Valkey => format!("VALKEY{:03}", dialect.version),
        }
        .into_bytes();
        bytes.push(0xFA);
        put_string(&mut bytes, b"redis-ver");
        put_string(&mut bytes, group[0].server.as_bytes());
        bytes.extend([0xFE, 0, 0xFB, group.len() as u8, 1]);
        for (number, sample) in group.iter().enumerate() {
            if number % 4 == 1 {
                bytes.push(0xFC);
                bytes.extend(4_000_000_000_000_i64.to_le_bytes());
            }
            if number % 4 == 2 {
                bytes.extend([0xF9, 7]);
            }
            bytes.push(sample.raw.kind);
            put_string(&mut bytes, &[b'a' + number as u8, b'k']);
            bytes.extend_from_slice(&sample.raw.payload);
        }
        bytes.push(0xFF);
        if dialect.version >= 5 {
            bytes.extend(Crc64::of(&bytes).to_le_bytes());
        }
        rdbs.push(bytes);
    }
    rdbs
}

pub fn seeds() -> Vec<Vec<u8>> {
    let choices = [0x00, 0x20, 0x43, 0x61];
    let each = rdbs().into_iter().zip(choices.into_iter().cycle());
    let mut seeds: Vec<Vec<u8>> = each
        .map(|(rdb, choice)| [&[choice], &rdb[..]].concat())
        .collect();
    // Short ones are mutated to more effect: one value each, the checksum made afterwards.
    for sample in values::samples() {
        let magic = match sample.dialect.family {
            backfeed::wire::rdb::Family::Redis => format!("REDIS{:04}", sample.dialect.version),
            backfeed::wire::rdb::Family::Valkey => format!("VALKEY{:03}", sample.dialect.version),
        };
        let head = [&[0xA1], magic.as_bytes(), &[sample.raw.kind, 1, b'k']].concat();
        seeds.push([&head, &sample.raw.payload[..]].concat());
    }
    seeds
}

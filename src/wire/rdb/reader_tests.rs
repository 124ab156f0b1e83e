#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::super::samples::{aux as aux_field, outcome, rdb, rich, string};
use super::*;
use crate::wire::rdb::WalkError;

type Taken = (u32, Vec<u8>, Option<i64>, Vec<u8>, bool, u8, Vec<u8>);

/// Keeps everything; keys of which `fate` says so are taken or dropped.
struct Kept {
    fate: fn(&[u8]) -> Fate,
    /// Records and passed bytes, in order.
    raw: Vec<u8>,
    records: Vec<u8>,
    taken: Vec<Taken>,
}

impl Kept {
    fn new(fate: fn(&[u8]) -> Fate) -> Self {
        Self {
            fate,
            raw: Vec::new(),
            records: Vec::new(),
            taken: Vec::new(),
        }
    }
}

impl Sink for Kept {
    type Error = BadValue;

    fn record(&mut self, opcode: u8, raw: &[u8]) -> Result<(), BadValue> {
        self.records.push(opcode);
        self.raw.extend_from_slice(raw);
        Ok(())
    }

    fn fate(&mut self, _: u32, key: &[u8], _: u8, _: bool) -> Fate {
        (self.fate)(key)
    }

    fn pass(&mut self, raw: &[u8]) -> Result<(), BadValue> {
        assert!(!raw.is_empty());
        self.raw.extend_from_slice(raw);
        Ok(())
    }

    fn item(&mut self, item: Item<'_>) -> Result<(), BadValue> {
        self.taken.push((
            item.db,
            item.key.to_vec(),
            item.expiry,
            item.prefix.to_vec(),
            item.has_meta,
            item.kind,
            item.payload.to_vec(),
        ));
        Ok(())
    }
}

fn read(chunks: &[&[u8]], fate: fn(&[u8]) -> Fate) -> Kept {
    let mut reader = Reader::new(1 << 20);
    let mut kept = Kept::new(fate);
    for chunk in chunks {
        reader.push(chunk, &mut kept).unwrap();
    }
    reader.finish::<BadValue>().unwrap();
    kept
}

/// An RDB with every record kind, and its length without the checksum.
fn sample() -> (Vec<u8>, usize) {
    let bytes = rich();
    let body = bytes.len() - 8;
    (bytes, body)
}

/// Is asked ahead where it says so, and keeps what it is asked.
struct Asked<const AHEAD: bool> {
    kept: Kept,
    questions: Vec<(u32, Vec<u8>, u8, bool)>,
}

impl<const AHEAD: bool> Sink for Asked<AHEAD> {
    type Error = BadValue;
    const AHEAD: bool = AHEAD;

    fn record(&mut self, opcode: u8, raw: &[u8]) -> Result<(), BadValue> {
        self.kept.record(opcode, raw)
    }

    fn fate(&mut self, db: u32, key: &[u8], kind: u8, has_meta: bool) -> Fate {
        assert!(!self.kept.records.is_empty(), "the magic comes first");
        self.questions.push((db, key.to_vec(), kind, has_meta));
        self.kept.fate(db, key, kind, has_meta)
    }

    fn pass(&mut self, raw: &[u8]) -> Result<(), BadValue> {
        self.kept.pass(raw)
    }

    fn item(&mut self, item: Item<'_>) -> Result<(), BadValue> {
        self.kept.item(item)
    }
}

#[test]
fn asking_ahead_asks_the_same_and_gives_the_same() {
    fn asked<const AHEAD: bool>(chunks: [&[u8]; 2]) -> Asked<AHEAD> {
        let mut reader = Reader::new(1 << 20);
        let mut asked = Asked {
            kept: Kept::new(|key| match key.len() {
                6 => Fate::Take,
                8 => Fate::Drop,
                _ => Fate::Pass,
            }),
            questions: Vec::new(),
        };
        for chunk in chunks {
            reader.push(chunk, &mut asked).unwrap();
        }
        reader.finish::<BadValue>().unwrap();
        asked.questions.sort();
        asked
    }
    let (bytes, _) = sample();
    // A key before any database, too.
    let records = bytes.get(9..bytes.len() - 9).unwrap();
    let bytes = rdb(
        "REDIS0013",
        &[&[0, 4], &b"none"[..], &[1, b'v'], records].concat(),
    );
    let one_by_one = asked::<false>([&bytes, &[]]);
    let dbs: std::collections::BTreeSet<u32> = one_by_one.questions.iter().map(|it| it.0).collect();
    assert!(dbs.len() > 1, "several databases: {dbs:?}");
    assert!(
        one_by_one.questions.iter().any(|it| it.3),
        "a key with data of modules"
    );
    for cut in 0..bytes.len() {
        let (a, b) = bytes.split_at(cut);
        let ahead = asked::<true>([a, b]);
        assert_eq!(ahead.questions, one_by_one.questions, "cut at {cut}");
        assert_eq!(ahead.kept.taken, one_by_one.kept.taken, "cut at {cut}");
        assert_eq!(ahead.kept.raw, one_by_one.kept.raw, "cut at {cut}");
    }
}

#[test]
fn what_passes_by_is_the_same_bytes_however_they_are_cut() {
    let (bytes, body) = sample();
    for size in [1, 2, 3, 7, 64, bytes.len()] {
        let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
        let kept = read(&chunks, |_| Fate::Pass);
        assert_eq!(kept.raw, bytes[..body], "chunks of {size}");
    }
}

#[test]
fn what_is_taken_is_the_same_however_it_is_cut_and_all_else_passes() {
    let (bytes, _) = sample();
    let all = read(&[&bytes], |_| Fate::Take);
    assert_eq!(
        all.taken.len() as u64,
        outcome(&bytes).unwrap().keys(),
        "every key"
    );
    assert!(all.taken.iter().any(|taken| taken.2.is_some()));
    let some: fn(&[u8]) -> Fate = |key| match key.last().map(|byte| byte % 3) {
        Some(0) => Fate::Take,
        Some(1) => Fate::Pass,
        _ => Fate::Drop,
    };
    let whole = read(&[&bytes], some);
    for cut in 0..bytes.len() {
        let (a, b) = bytes.split_at(cut);
        assert_eq!(
            read(&[a, b], |_| Fate::Take).taken,
            all.taken,
            "cut at {cut}"
        );
        let kept = read(&[a, b], some);
        assert_eq!(kept.taken, whole.taken);
        assert_eq!(kept.raw, whole.raw, "cut at {cut}");
    }
    let one_by_one: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(read(&one_by_one, some).raw, whole.raw);
}

#[test]
fn expiries_and_other_prefixes_belong_to_the_next_key() {
    let mut body = aux_field("a", "b");
    body.extend([0xFE, 3]);
    body.push(0xFC);
    body.extend(4_000_000_000_000i64.to_le_bytes());
    body.extend([0xF9, 7]);
    body.push(0);
    body.extend([string(b"k"), string(b"v")].concat());
    body.push(0xFD);
    body.extend(5i32.to_le_bytes());
    body.push(0);
    body.extend([string(b"l"), string(b"w")].concat());
    let bytes = rdb("REDIS0011", &body);
    let kept = read(&[&bytes], |_| Fate::Take);
    assert_eq!(kept.records, [0, 0xFA, 0xFE, 0xFF]);
    let text = |text: &[u8]| string(text);
    assert_eq!(
        kept.taken,
        [
            (
                3,
                b"k".to_vec(),
                Some(4_000_000_000_000),
                vec![0xF9, 7],
                false,
                0,
                text(b"v")
            ),
            (3, b"l".to_vec(), Some(5000), vec![], false, 0, text(b"w")),
        ]
    );
}

#[test]
fn limits_hold_and_the_unknown_is_told() {
    let body = [&[0][..], &string(b"k"), &[0x40, 200], &[b'x'; 200]].concat();
    let bytes = rdb("REDIS0011", &body);
    let mut reader = Reader::new(100);
    let error = reader.push(&bytes, &mut Kept::new(|_| Fate::Take));
    assert!(matches!(error, Err(ReadError::TooLong { limit: 100, .. })));
    let bytes = rdb("REDIS0099", &[200, 1, 2]);
    let error = Reader::new(100).push(&bytes, &mut Kept::new(|_| Fate::Take));
    assert!(matches!(error, Err(ReadError::Unknown { from: 9, .. })));
    let mut reader = Reader::new(100);
    let bytes = rdb("REDIS0011", &[]);
    reader
        .push(&bytes[..12], &mut Kept::new(|_| Fate::Take))
        .unwrap();
    assert!(matches!(
        reader.finish::<BadValue>(),
        Err(ReadError::Walk(WalkError::CutOff { .. }))
    ));
}

#[test]
fn bytes_after_the_end_are_an_error_however_they_come() {
    for bytes in [sample().0, rdb("REDIS0004", &[])[..10].to_vec()] {
        let mut long = bytes.clone();
        long.extend([0; 20]);
        for size in [1, bytes.len(), long.len()] {
            let mut reader = Reader::new(1 << 20);
            let mut kept = Kept::new(|_| Fate::Pass);
            for chunk in long.chunks(size) {
                reader.push(chunk, &mut kept).unwrap();
            }
            let error = reader.finish::<BadValue>();
            let length = bytes.len() as u64;
            assert!(
                matches!(error, Err(ReadError::Trailing { at }) if at == length),
                "{error:?}"
            );
        }
    }
}

/// Found by fuzzing: they passed by or were lost, as the chunks were cut.
#[test]
fn what_belongs_to_a_key_needs_one() {
    let bytes = rdb("REDIS0009", &[&[0xF9, 7][..], &[0xF9, 8]].concat());
    for size in [1, bytes.len()] {
        let mut reader = Reader::new(100);
        let mut kept = Kept::new(|_| Fate::Take);
        let mut chunks = bytes.chunks(size);
        let error = chunks.find_map(|chunk| reader.push(chunk, &mut kept).err());
        assert!(
            matches!(error, Some(ReadError::Key { at: 9, .. })),
            "{error:?}"
        );
    }
}

#[test]
fn a_name_that_is_too_long_is_an_error_before_it_is_held() {
    let mut bytes = b"REDIS0011\x00".to_vec();
    super::super::cursor::put_number(&mut bytes, 70 << 20);
    for fate in [(|_| Fate::Pass) as fn(&[u8]) -> Fate, |_| Fate::Take] {
        let mut reader = Reader::new(1 << 20);
        let mut kept = Kept::new(fate);
        reader.push(&bytes, &mut kept).unwrap();
        let chunk = vec![b'k'; 1 << 20];
        let pushed = (1..=70).find_map(|_| reader.push(&chunk, &mut kept).err());
        assert!(
            matches!(pushed, Some(ReadError::LongName { at: 9, limit }) if limit == RECORD_MIN),
            "{pushed:?}"
        );
        assert!(reader.held.len() <= RECORD_MIN + PIECE);
    }
    // A short one that says to be long once it is decompressed.
    let mut bytes = b"REDIS0011\x00\xC3".to_vec();
    let stored = vec![0; 1 << 20];
    super::super::cursor::put_number(&mut bytes, stored.len() as u64);
    super::super::cursor::put_number(&mut bytes, 65 << 20);
    bytes.extend(stored);
    bytes.extend([1, b'v', 0xFF]);
    let mut reader = Reader::new(1 << 20);
    let pushed = reader.push(&bytes, &mut Kept::new(|_| Fate::Take));
    assert!(
        matches!(pushed, Err(ReadError::LongName { at: 9, .. })),
        "{pushed:?}"
    );
}

/// It is a sound one: who may hold more gets it.
#[test]
fn a_name_may_take_what_a_value_may() {
    let mut bytes = b"REDIS0004\x00".to_vec();
    let name = vec![b'k'; RECORD_MIN + 2 * PIECE];
    super::super::cursor::put_number(&mut bytes, name.len() as u64);
    bytes.extend_from_slice(&name);
    bytes.extend([1, b'v', 0xFF]);
    for fate in [(|_| Fate::Pass) as fn(&[u8]) -> Fate, |_| Fate::Take] {
        let mut kept = Kept::new(fate);
        let mut reader = Reader::new(RECORD_MIN * 2);
        reader.push(&bytes, &mut kept).unwrap();
        reader.finish::<BadValue>().unwrap();
        assert_eq!(reader.summary().keys(), 1);
        let mut reader = Reader::new(10).for_names(RECORD_MIN);
        let pushed = reader.push(&bytes, &mut Kept::new(fate));
        assert!(matches!(pushed, Err(ReadError::LongName { .. })));
    }
}

/// Longer than what servers allow by default; and no byte of it is held unless it is wanted.
#[test]
fn values_of_600_mb_pass_and_wanted_ones_stop_at_the_limit() {
    struct Counted(Fate, u64);
    impl Sink for Counted {
        type Error = BadValue;
        fn record(&mut self, _: u8, _: &[u8]) -> Result<(), BadValue> {
            Ok(())
        }
        fn fate(&mut self, _: u32, _: &[u8], _: u8, _: bool) -> Fate {
            self.0
        }
        fn pass(&mut self, raw: &[u8]) -> Result<(), BadValue> {
            self.1 += raw.len() as u64;
            Ok(())
        }
        fn item(&mut self, _: Item<'_>) -> Result<(), BadValue> {
            Ok(())
        }
    }
    const LENGTH: u64 = 600_000_000;
    let mut head = b"REDIS0004\x00\x01k".to_vec();
    super::super::cursor::put_number(&mut head, LENGTH);
    let chunk = vec![b'v'; 1_000_000];
    for fate in [Fate::Pass, Fate::Drop, Fate::Take] {
        let mut reader = Reader::new(10_000_000);
        let mut counted = Counted(fate, 0);
        reader.push(&head, &mut counted).unwrap();
        let pushed = (0..600).find_map(|_| reader.push(&chunk, &mut counted).err());
        if fate == Fate::Take {
            assert!(matches!(pushed, Some(ReadError::TooLong { at: 9, .. })));
            assert!(reader.value.len() <= 10_000_000 + PIECE);
            continue;
        }
        assert!(pushed.is_none(), "{pushed:?}");
        reader.push(&[0xFF], &mut counted).unwrap();
        reader.finish::<BadValue>().unwrap();
        let all = head.len() as u64 - 9 + LENGTH;
        assert_eq!(counted.1, if fate == Fate::Pass { all } else { 0 });
    }
}

//! Arbitrary commands on a small key space, which holds a value of every type and encoding.
//!
//! An input is a choice of dialect, then commands as text, one a line, arguments split at spaces. An argument `@n` is the
//! payload of `RESTORE` with sample n; the key `vn` holds sample n at the start, if the dialect has it.

use std::collections::BTreeMap;

use backfeed::model::{
    ApplyError, Dialect, Entry, Footprint, Keyspace, Raw, Value, Wanted, slot_of,
};
use backfeed::wire::crc64::Crc64;
use backfeed::wire::rdb::Family;

use super::{choice, values};

/// Limits that keep a run short.
const COMMANDS: usize = 24;
const INPUT: usize = 4096;
/// Numbers of so many digits are no offsets into strings here: they would make 512 MiB of zeros.
const OFFSET_DIGITS: usize = 6;

const DIALECTS: [(Family, u32); 6] = [
    (Family::Redis, 9),
    (Family::Redis, 10),
    (Family::Redis, 11),
    (Family::Redis, 12),
    (Family::Redis, 13),
    (Family::Valkey, 80),
];

type Command = Vec<Vec<u8>>;
/// Expiry, records before the key, value: by database and key.
type Base = BTreeMap<(u32, Vec<u8>), (Option<i64>, Raw)>;

pub fn check(data: &[u8]) {
    let Some((choice, text)) = choice(data) else {
        return;
    };
    let (family, version) = DIALECTS[usize::from(choice) % DIALECTS.len()];
    let dialect = Dialect { family, version };
    let samples = values::samples();
    let mut base = Base::new();
    for (number, sample) in samples.iter().enumerate() {
        if sample.raw.decode(dialect).is_ok() && sample.dialect.family == family {
            let key = format!("v{number}").into_bytes();
            base.insert((0, key), (None, sample.raw.clone()));
        }
    }
    let mut commands = parse(text, &samples);
    // A command that cannot be applied ends everything; the others are tried without it.
    let whole = loop {
        match stage(&commands, &base, dialect, 0, false) {
            Ok(done) => break done,
            Err((at, error)) => {
                assert!(
                    !matches!(error, ApplyError::NotCollected { .. }),
                    "{error}: {commands:?}"
                );
                commands.remove(at);
            }
        }
    };
    // The same comes out with no more in memory than has to be; and in two stages, base on base.
    let (passing, _) = stage(&commands, &base, dialect, 0, true)
        .unwrap_or_else(|(_, error)| panic!("{error}: {commands:?}"));
    assert_same(&whole.0, &passing, &commands);
    let (first, second) = commands.split_at(commands.len() / 2);
    let between = stage(first, &base, dialect, 0, true);
    let (between, selected) = between.unwrap_or_else(|(_, error)| panic!("{error}: {first:?}"));
    let (staged, _) = stage(second, &between, dialect, selected, true)
        .unwrap_or_else(|(_, error)| panic!("{error}: {commands:?}"));
    assert_same(&whole.0, &staged, &commands);
}

/// Applies commands to a base, as a lookup or (`passing`) a consolidation does; gives the new base, and the database that is
/// selected then.
fn stage(
    commands: &[Command],
    base: &Base,
    dialect: Dialect,
    selected: u32,
    passing: bool,
) -> Result<(Base, u32), (usize, ApplyError)> {
    let mut footprint = Footprint::new(selected);
    for (at, command) in commands.iter().enumerate() {
        let argv: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        let spec = footprint.note(&argv).map_err(|error| (at, error))?;
        if footprint.has_lost() {
            let why = "it cannot be applied";
            let command = spec.name.to_owned();
            return Err((at, ApplyError::Unmodelled { command, why }));
        }
    }
    let mut space = if passing {
        Keyspace::passing(&mut footprint, dialect, selected)
    } else {
        Keyspace::new(&mut footprint, dialect, selected)
    };
    let mut result = Base::new();
    for ((db, key), (expiry, raw)) in base {
        let wanted = space.wants(*db, key);
        if wanted == Wanted::Yes {
            let entry = Entry {
                expiry: *expiry,
                ..Entry::new(Value::Raw(raw.clone()))
            };
            space.load(*db, key, entry);
        } else if wanted == Wanted::No
            && let Some(now) = footprint.layout().now(*db)
        {
            let slot = slot_of(key);
            if !footprint
                .slots()
                .iter()
                .any(|(from, to)| (*from..=*to).contains(&slot))
            {
                result.insert((now, key.clone()), (*expiry, raw.clone()));
            }
        }
    }
    for (at, command) in commands.iter().enumerate() {
        let argv: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        space.received_at(1_700_000_000_000);
        let mut passes =
            |db: u32, key: &[u8], entry: &Entry| put(&mut result, dialect, db, key, entry);
        let applied = if passing {
            space.apply_passing(&argv, &mut passes)
        } else {
            space.apply(&argv)
        };
        applied.map_err(|error| (at, error))?;
        // Lost keys are reported, as an error would be.
        if let Some((.., lost)) = space.unknowns().next() {
            return Err((at, lost.why.clone()));
        }
        assert!(space.is_known());
    }
    space.weigh();
    for (db, entries) in space.entries() {
        for (key, entry) in entries {
            put(&mut result, dialect, db, key, entry);
        }
    }
    Ok((result, footprint.selected()))
}

fn put(result: &mut Base, dialect: Dialect, db: u32, key: &[u8], entry: &Entry) {
    if !matches!(entry.value, Value::Raw(_)) {
        assert!(!entry.value.is_empty() || matches!(entry.value, Value::Text(_)));
        values::check_value(&entry.value, dialect);
    }
    let mut payload = Vec::new();
    let kind = entry.value.encode(dialect, &mut payload);
    let raw = Raw {
        kind,
        payload: payload.into(),
    };
    let before = result.insert((db, key.to_vec()), (entry.expiry, raw));
    assert!(before.is_none(), "a key is there twice");
}

fn assert_same(whole: &Base, staged: &Base, commands: &[Command]) {
    let shown = || {
        let lines = commands
            .iter()
            .map(|argv| argv.join(&b' ').escape_ascii().to_string());
        lines.collect::<Vec<_>>().join("\n")
    };
    let keys = |base: &Base| base.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(whole), keys(staged), "{}", shown());
    for (key, (expiry, raw)) in whole {
        let (staged_expiry, staged_raw) = &staged[key];
        assert_eq!(expiry, staged_expiry, "{key:?} of\n{}", shown());
        let (a, b) = (values::in_order(raw), values::in_order(staged_raw));
        assert_eq!(a, b, "{key:?} of\n{}", shown());
    }
}

fn parse(text: &[u8], samples: &[values::Sample]) -> Vec<Command> {
    let text = &text[..text.len().min(INPUT)];
    let lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let commands = lines.take(COMMANDS).map(|line| {
        let args = line.split(|byte| *byte == b' ');
        args.map(|arg| argument(arg, samples)).collect()
    });
    commands
        .filter(|command: &Command| !makes_much(command))
        .collect()
}

fn argument(arg: &[u8], samples: &[values::Sample]) -> Vec<u8> {
    let number = arg
        .strip_prefix(b"@")
        .and_then(|number| std::str::from_utf8(number).ok());
    let sample = number.and_then(|number| samples.get(number.parse::<usize>().ok()?));
    let Some(sample) = sample else {
        return arg.to_vec();
    };
    let mut dump = vec![sample.raw.kind];
    dump.extend_from_slice(&sample.raw.payload);
    dump.extend((sample.dialect.version as u16).to_le_bytes());
    dump.extend(Crc64::of(&dump).to_le_bytes());
    dump
}

fn makes_much(command: &Command) -> bool {
    let is_long = |arg: &Vec<u8>| {
        let mut runs = arg.chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit());
        runs.any(|run| run[0].is_ascii_digit() && run.len() > OFFSET_DIGITS)
    };
    let name = command[0].to_ascii_uppercase();
    matches!(&name[..], b"SETRANGE" | b"SETBIT" | b"BITFIELD") && command.iter().any(is_long)
}

/// Commands that succeed, of every type; and for every other command its name with some arguments.
const SEEDS: [&str; 14] = [
    "SET s hello PXAT 4000000000000\nAPPEND s x\nSETRANGE s 20 y\nINCR n\nINCRBY n 5\nDECR n\nGETDEL s\nMSET a 1 b 2\nGETEX a PXAT 4000000000000\nGETSET b 3\nSETNX c 4",
    "SETBIT b 9 1\nBITFIELD b SET u8 #1 200 OVERFLOW SAT INCRBY i5 0 30\nBITOP AND d b v3\nBITOP NOT e d\nPFADD p a b c\nPFMERGE q p v4\nPFCOUNT p",
    "RPUSH l a 1 bb\nLPUSH l -300\nLINSERT l BEFORE a x\nLSET l 0 z\nLREM l 1 a\nLTRIM l 0 2\nLMOVE l m LEFT RIGHT\nRPOPLPUSH l v5\nLPOP v6 2\nRPOP v5",
    "SADD t 1 2 a\nSREM t 1\nSMOVE t u 2\nSUNIONSTORE w t u v7 v8\nSINTERSTORE i v7 v8\nSDIFFSTORE d v9 v7\nSADD v7 x\nSREM v8 a",
    "ZADD z 1 a 2 b -inf c\nZADD z GT CH 5 a\nZINCRBY z 1.5 b\nZREM z c\nZUNIONSTORE y 2 z v10 WEIGHTS 2 3 AGGREGATE MAX\nZPOPMIN y 1\nZREMRANGEBYRANK v11 0 1\nZREMRANGEBYSCORE y (1 +inf\nZRANGESTORE r v11 0 -1\nZDIFFSTORE e 2 v10 v11",
    "GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania\nGEOSEARCHSTORE h g FROMLONLAT 15 37 BYRADIUS 200 km ASC\nGEORADIUS g 15 37 200 km STORE j\nZREM g Palermo",
    "HSET h f v g 1\nHINCRBY h g 5\nHINCRBYFLOAT h g 0.5\nHDEL h f\nHSETNX h k v\nHPEXPIREAT v15 4000000000001 FIELDS 1 f\nHPERSIST v15 FIELDS 1 f\nHSETEX v16 PXAT 4000000000002 FIELDS 1 a 9\nHGETDEL v13 FIELDS 1 f\nHSET v12 x y",
    "XADD x 1-1 a b\nXADD x MAXLEN = 2 1-2 a c\nXADD x 2-1 d e\nXGROUP CREATE x g 0\nXCLAIM x g c 0 1-2 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID LASTID 1-2\nXACK x g 1-2\nXDEL x 2-1\nXTRIM x MAXLEN 1\nXSETID x 5-0\nXGROUP DELCONSUMER x g c\nXGROUP DESTROY x g",
    "XADD v16 9-9 f v\nXDEL v16 1-1\nXGROUP CREATECONSUMER v16 g n\nXGROUP SETID v16 g 2-1 ENTRIESREAD 2\nXTRIM v16 MINID 2-0\nXACKDEL v16 g DELREF IDS 1 2-1\nXDELEX v16 ACKED IDS 1 3-0\nXADD y KEEPREF MAXLEN 5 1-1 a b\nXCFGSET y IDMP-DURATION 100 IDMP-MAXSIZE 9",
    "RENAME v0 a\nRENAMENX a c\nCOPY c d DB 3 REPLACE\nMOVE c 5\nPEXPIREAT v1 4000000000000 NX\nPERSIST v1\nDEL v2 v3\nUNLINK v4\nSELECT 3\nAPPEND d x\nSWAPDB 3 0\nSET n v\nFLUSHDB\nSET o p",
    "RESTORE a 0 @5\nRESTORE b 4000000000000 @10 ABSTTL REPLACE\nLPUSH a x\nZADD b 5 n\nRESTORE c 0 @15\nRESTORE d 0 @20 FREQ 5\nCOPY c e",
    "RPUSH l 3 1 2\nSORT l STORE m\nSORT l ALPHA DESC LIMIT 0 2 STORE n\nMSET w_1 3 w_2 2 w_3 1\nSORT l BY w_* GET # GET w_* STORE o\nSORT v7 BY nosort STORE p",
    "FLUSHALL\nMULTI\nSET a 1\nEXEC\nPUBLISH c m\nPING\nMSETEX 2 a 1 b 2 PXAT 4000000000000\nDELEX a\nDELIFEQ b 2\nSELECT 1\nSET a 2\nSWAPDB 0 1\nCLUSTER FLUSHSLOT 15495\nSFLUSH 0 100 SYNC\nTRIMSLOTS RANGES 1 0 5",
    "FUNCTION LOAD x\nFUNCTION DELETE lib\nFUNCTION FLUSH\nLMPOP 1 v5 LEFT COUNT 2\nZMPOP 1 v10 MIN COUNT 1\nBLMPOP 0 1 v6 RIGHT\nBZPOPMAX v11 0\nZREMRANGEBYLEX v10 [a (b\nSPOP v7\nEVAL x 0\nVADD k",
];

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for text in SEEDS {
        for choice in [0, 4, 5] {
            seeds.push([&[choice], text.as_bytes()].concat());
        }
    }
    // One command on one value of each kind.
    for (number, spec) in backfeed::model::commands().enumerate() {
        let key = number % 60;
        let line = format!(
            "{} v{key} v{} 1 2\n{} v{key}",
            spec.name,
            key / 2,
            spec.name
        );
        seeds.push([&[(number % 6) as u8], line.as_bytes()].concat());
    }
    seeds
}

/// The words of commands, for libFuzzer's dictionary.
pub fn words() -> Vec<String> {
    let names = backfeed::model::commands().map(|spec| spec.name.to_owned());
    let words = SEEDS
        .iter()
        .flat_map(|text| text.split([' ', '\n']).map(str::to_owned));
    let more = [
        "BYLEX",
        "BYSCORE",
        "REV",
        "LIMIT",
        "AGGREGATE",
        "MINID",
        "ACKED",
        "KEEPTTL",
        "EXAT",
        "NOMKSTREAM",
        "MKSTREAM",
        "nan",
        "-inf",
        "1e300",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551615-18446744073709551615",
        "WITHVALUES",
        "PERSIST",
        "FXX",
        "FNX",
        "IFEQ",
        "COUNT",
        "ANY",
        "BYBOX",
        "FROMMEMBER",
    ];
    let mut all: Vec<String> = names.chain(words).chain(more.map(str::to_owned)).collect();
    all.sort();
    all.dedup();
    all
}

//! What each opcode and value type is made of, as data (PROTOCOL.md D.4, D.5, D.7). The walker interprets it.
//!
//! Types are not tied to RDB versions, as servers load a type that they know under any header (PROTOCOL.md E.2); they are
//! tied to the family, as Redis and Valkey gave the same numbers to different things.

use super::summary::Family;

/// The newest RDB versions that real servers' files were walked with. In newer ones, what does not fit is taken for
/// something new rather than for damage.
const TESTED_REDIS: u32 = 13;
const TESTED_VALKEY: u32 = 80;

/// Whether this version may hold things that we cannot know.
pub(super) fn is_newer_than_tested(family: Family, version: u32) -> bool {
    match family {
        Family::Redis => version > TESTED_REDIS,
        Family::Valkey => version > TESTED_VALKEY,
    }
}

/// The opcode of an AUX field.
pub(super) const AUX: u8 = 0xFA;

/// One piece of a record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Atom {
    /// A string in any encoding (D.3).
    Str,
    /// Nothing: a key's name is over, and its value begins.
    Value,
    /// A length or number (D.2).
    Len,
    /// So many bytes.
    Fixed(u64),
    /// A double as text (D.3): one length byte, of which 253–255 stand for values without text.
    DoubleText,
    /// A count, then so many times these pieces.
    Many(&'static [Atom]),
    /// A count, then so many times so many bytes.
    ManyFixed(u64),
    /// A 64-bit module id.
    ModuleId,
    /// A module's self-describing data, up to its opcode 0.
    ModuleData,
    /// The number of a database.
    Db,
    /// The name of an AUX field, and its value.
    AuxKey,
    AuxValue,
    /// Bytes to be kept: the text of an AUX name, of an AUX value, or an integer as AUX value.
    KeepKey,
    KeepText,
    KeepInt,
    /// The two lengths of an LZF string, and its data after the second.
    LzfStored,
    LzfOriginal,
}

use Atom::{
    AuxKey, AuxValue, Db, DoubleText, Fixed, KeepInt, KeepKey, KeepText, Len, LzfOriginal,
    LzfStored, Many, ManyFixed, ModuleData, ModuleId, Str, Value,
};

// What strings, module data and AUX fields go on with, once their first bytes are known.
pub(super) const LZF: &[Atom] = &[LzfStored, LzfOriginal];
pub(super) const ONE_STR: &[Atom] = &[Str];
pub(super) const ONE_LEN: &[Atom] = &[Len];
pub(super) const KEEP_KEY: &[Atom] = &[KeepKey];
pub(super) const KEEP_TEXT: &[Atom] = &[KeepText];
pub(super) const KEEP_INT: &[Atom] = &[KeepInt];

/// The type of a key, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    List,
    Set,
    Zset,
    Hash,
    Stream,
    VectorSet,
    Module,
    Cron,
}

impl Kind {
    /// Every kind with its name; a kind's place here is its number.
    pub(super) const NAMES: [&'static str; 9] = [
        "string",
        "list",
        "set",
        "zset",
        "hash",
        "stream",
        "vectorset",
        "module",
        "cron",
    ];

    /// The name in the summary.
    pub(super) fn name(self) -> &'static str {
        Self::NAMES.get(self as usize).copied().unwrap_or_default()
    }
}

/// What a record means once it has passed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Effect {
    None,
    /// The next key expires.
    Expiry,
    Key(Kind),
    Function,
    Aux,
    /// The end opcode: the checksum follows.
    End,
}

/// A record: what its first byte announces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) effect: Effect,
    pub(super) atoms: &'static [Atom],
}

/// What follows the given opcode or type byte; nothing when it is not known.
#[inline]
pub(super) fn record(family: Family, byte: u8) -> Option<Record> {
    let (effect, atoms) = match byte {
        0..=64 => {
            let (kind, atoms) = key(family, byte)?;
            (Effect::Key(kind), atoms)
        }
        _ => opcode(family, byte)?,
    };
    Some(Record { effect, atoms })
}

fn opcode(family: Family, byte: u8) -> Option<(Effect, &'static [Atom])> {
    const NUMBERS_2: &[Atom] = &[Len, Len];
    const NUMBERS_3: &[Atom] = &[Len, Len, Len];
    // Module id, the opcode and the value of `when`, data.
    const MODULE_AUX: &[Atom] = &[ModuleId, Len, Len, ModuleData];
    // Class spec, data.
    const KEY_META: &[Atom] = &[Many(&[Fixed(4), ModuleData])];
    // Job name, slot ranges.
    const SLOT_IMPORT: &[Atom] = &[Str, Many(&[Len, Len])];
    Some(match byte {
        0xFF => (Effect::End, &[] as &[Atom]),
        0xFE => (Effect::None, &[Db]),
        0xFD => (Effect::Expiry, &[Fixed(4)]),
        0xFC => (Effect::Expiry, &[Fixed(8)]),
        0xFB => (Effect::None, NUMBERS_2), // RESIZEDB
        AUX => (Effect::Aux, &[AuxKey, AuxValue]),
        0xF9 => (Effect::None, &[Fixed(1)]), // FREQ
        0xF8 => (Effect::None, ONE_LEN),     // IDLE
        0xF7 => (Effect::None, MODULE_AUX),
        0xF5 => (Effect::Function, ONE_STR), // FUNCTION2
        0xF4 => (Effect::None, NUMBERS_3),   // SLOT_INFO
        0xF3 => (
            Effect::None,
            match family {
                Family::Redis => KEY_META,
                Family::Valkey => SLOT_IMPORT,
            },
        ),
        _ => return None,
    })
}

/// The key's name, then its value.
fn key(family: Family, byte: u8) -> Option<(Kind, &'static [Atom])> {
    const BLOB: &[Atom] = &[Str, Value, Str];
    const STRINGS: &[Atom] = &[Str, Value, Many(&[Str])];
    const PAIRS: &[Atom] = &[Str, Value, Many(&[Str, Str])];
    const ZSET: &[Atom] = &[Str, Value, Many(&[Str, DoubleText])];
    const ZSET_2: &[Atom] = &[Str, Value, Many(&[Str, Fixed(8)])];
    const MODULE_2: &[Atom] = &[Str, Value, ModuleId, ModuleData];
    // Nodes as container kind and contents.
    const QUICKLIST_2: &[Atom] = &[Str, Value, Many(&[Len, Str])];
    // Per field an expiry.
    const HASH_PRE_GA: &[Atom] = &[Str, Value, Many(&[Len, Str, Str])];
    const HASH_METADATA: &[Atom] = &[Str, Value, Fixed(8), Many(&[Len, Str, Str])];
    const HASH_LISTPACK_EX: &[Atom] = &[Str, Value, Fixed(8), Str];
    const VALKEY_HASH_2: &[Atom] = &[Str, Value, Many(&[Str, Str, Fixed(8)])];
    // Script, start, interval, keys, arguments.
    const CRON: &[Atom] = &[
        Str,
        Value,
        Str,
        Fixed(8),
        Fixed(8),
        Many(&[Str]),
        Many(&[Str]),
    ];
    use Family::{Redis, Valkey};
    Some(match (byte, family) {
        (0, _) => (Kind::String, BLOB),
        (1 | 14, _) => (Kind::List, STRINGS),
        (2, _) => (Kind::Set, STRINGS),
        (3, _) => (Kind::Zset, ZSET),
        (4, _) => (Kind::Hash, PAIRS),
        (5, _) => (Kind::Zset, ZSET_2),
        (7, _) => (Kind::Module, MODULE_2),
        (10, _) => (Kind::List, BLOB),
        (11 | 20, _) => (Kind::Set, BLOB),
        (12 | 17, _) => (Kind::Zset, BLOB),
        (9 | 13 | 16, _) => (Kind::Hash, BLOB),
        (18, _) => (Kind::List, QUICKLIST_2),
        (15, _) => (Kind::Stream, STREAM_1),
        (19, _) => (Kind::Stream, STREAM_2),
        (21, _) => (Kind::Stream, STREAM_3),
        (22, Valkey) => (Kind::Hash, VALKEY_HASH_2),
        (22, Redis) => (Kind::Hash, HASH_PRE_GA),
        (23, Redis) => (Kind::Hash, BLOB),
        (24, Redis) => (Kind::Hash, HASH_METADATA),
        (25, Redis) => (Kind::Hash, HASH_LISTPACK_EX),
        (26, Redis) => (Kind::Stream, STREAM_4),
        (64, Redis) => (Kind::Cron, CRON),
        _ => return None,
    })
}

// Streams (D.7): key, nodes (master id, listpack), length, last id; then, version by version, more.
const NODES: Atom = Many(&[Str, Str]);
// Id, delivery time, delivery count.
const PENDING: Atom = Many(&[Fixed(24), Len]);
const STREAM_1: &[Atom] = &[
    Str,
    Value,
    NODES,
    Len,
    Len,
    Len,
    // Name, last id, pending entries, consumers (name, seen, ids of their pending entries).
    Many(&[
        Str,
        Len,
        Len,
        PENDING,
        Many(&[Str, Fixed(8), ManyFixed(16)]),
    ]),
];
const STREAM_2: &[Atom] = &[
    Str,
    Value,
    NODES,
    Len,
    Len,
    Len,
    // First id, greatest deleted id, entries added.
    Len,
    Len,
    Len,
    Len,
    Len,
    // Also entries read.
    Many(&[
        Str,
        Len,
        Len,
        Len,
        PENDING,
        Many(&[Str, Fixed(8), ManyFixed(16)]),
    ]),
];
// Consumers also have the time when they were last active.
const GROUPS_3: Atom = Many(&[
    Str,
    Len,
    Len,
    Len,
    PENDING,
    Many(&[Str, Fixed(16), ManyFixed(16)]),
]);
const STREAM_3: &[Atom] = &[
    Str, Value, NODES, Len, Len, Len, Len, Len, Len, Len, Len, GROUPS_3,
];
const STREAM_4: &[Atom] = &[
    Str,
    Value,
    NODES,
    Len,
    Len,
    Len,
    Len,
    Len,
    Len,
    Len,
    Len,
    GROUPS_3,
    // Idempotent producers: duration, greatest size, producers (id, entries), two counters.
    Len,
    Len,
    Many(&[Str, Many(&[Str, Len, Len])]),
    Len,
    Len,
];

/// What a record is called in messages.
pub(super) fn describe(family: Family, byte: u8) -> String {
    let name = match byte {
        0xFF => "the end",
        0xFE => "SELECTDB",
        0xFD => "EXPIRETIME",
        0xFC => "EXPIRETIME_MS",
        0xFB => "RESIZEDB",
        0xFA => "an AUX field",
        0xF9 => "FREQ",
        0xF8 => "IDLE",
        0xF7 => "MODULE_AUX",
        0xF5 => "a function library",
        0xF4 => "SLOT_INFO",
        0xF3 if family == Family::Redis => "KEY_META",
        0xF3 => "SLOT_IMPORT",
        _ => match key(family, byte) {
            Some((kind, _)) => return format!("a key of type {byte} ({})", kind.name()),
            None => return format!("a record of the unknown type 0x{byte:02X} ({byte})"),
        },
    };
    name.to_owned()
}

//! What each opcode and value type is made of, as data (PROTOCOL.md D.4, D.5, D.7). The walker interprets it.
//!
//! Types do not depend on RDB versions, because servers load a type that they know under any header (PROTOCOL.md E.2).
//! They depend on the family, because Redis and Valkey gave the same numbers to different things.

use super::numbers::{opcode, value_type};
use super::summary::Family;

/// The newest RDB versions whose real files were walked. In newer versions, what does not fit counts as something new
/// and not as damage.
const TESTED_REDIS: u32 = 13;
const TESTED_VALKEY: u32 = 80;

/// Whether this version may hold things that we cannot know.
pub(super) fn is_newer_than_tested(family: Family, version: u32) -> bool {
    match family {
        Family::Redis => version > TESTED_REDIS,
        Family::Valkey => version > TESTED_VALKEY,
    }
}

/// One piece of a record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Atom {
    /// A string in any encoding (D.3).
    Str,
    /// Nothing: a key's name has ended, and its value begins.
    Value,
    /// A length or number (D.2).
    Len,
    /// This many bytes.
    Fixed(u64),
    /// A double as text (D.3): one length byte. 253–255 mean values without text.
    DoubleText,
    /// A count, then these pieces that many times.
    Many(&'static [Atom]),
    /// A count, then a fixed number of bytes that many times.
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

// The rest of strings, module data and AUX fields, once their first bytes are known.
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
    /// Every kind with its name. The index of a kind is its number.
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

/// What follows the given opcode or type byte. Nothing when it is not known.
#[inline]
pub(super) fn record(family: Family, byte: u8) -> Option<Record> {
    let (effect, atoms) = match byte {
        0..=value_type::LAST => {
            let (kind, atoms) = key(family, byte)?;
            (Effect::Key(kind), atoms)
        }
        _ => after_opcode(family, byte)?,
    };
    Some(Record { effect, atoms })
}

fn after_opcode(family: Family, byte: u8) -> Option<(Effect, &'static [Atom])> {
    const NUMBERS_2: &[Atom] = &[Len, Len];
    const NUMBERS_3: &[Atom] = &[Len, Len, Len];
    // Module id, the opcode and the value of `when`, data.
    const MODULE_AUX: &[Atom] = &[ModuleId, Len, Len, ModuleData];
    // Class spec, data.
    const KEY_META: &[Atom] = &[Many(&[Fixed(4), ModuleData])];
    // Job name, slot ranges.
    const SLOT_IMPORT: &[Atom] = &[Str, Many(&[Len, Len])];
    Some(match byte {
        opcode::EOF => (Effect::End, &[] as &[Atom]),
        opcode::SELECTDB => (Effect::None, &[Db]),
        opcode::EXPIRETIME => (Effect::Expiry, &[Fixed(4)]),
        opcode::EXPIRETIME_MS => (Effect::Expiry, &[Fixed(8)]),
        opcode::RESIZEDB => (Effect::None, NUMBERS_2),
        opcode::AUX => (Effect::Aux, &[AuxKey, AuxValue]),
        opcode::FREQ => (Effect::None, &[Fixed(1)]),
        opcode::IDLE => (Effect::None, ONE_LEN),
        opcode::MODULE_AUX => (Effect::None, MODULE_AUX),
        opcode::FUNCTION2 => (Effect::Function, ONE_STR),
        opcode::SLOT_INFO => (Effect::None, NUMBERS_3),
        opcode::KEY_META => (
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
        (value_type::STRING, _) => (Kind::String, BLOB),
        (value_type::LIST | value_type::LIST_QUICKLIST, _) => (Kind::List, STRINGS),
        (value_type::SET, _) => (Kind::Set, STRINGS),
        (value_type::ZSET, _) => (Kind::Zset, ZSET),
        (value_type::HASH, _) => (Kind::Hash, PAIRS),
        (value_type::ZSET_2, _) => (Kind::Zset, ZSET_2),
        (value_type::MODULE_2, _) => (Kind::Module, MODULE_2),
        (value_type::LIST_ZIPLIST, _) => (Kind::List, BLOB),
        (value_type::SET_INTSET | value_type::SET_LISTPACK, _) => (Kind::Set, BLOB),
        (value_type::ZSET_ZIPLIST | value_type::ZSET_LISTPACK, _) => (Kind::Zset, BLOB),
        (value_type::HASH_ZIPMAP | value_type::HASH_ZIPLIST | value_type::HASH_LISTPACK, _) => {
            (Kind::Hash, BLOB)
        }
        (value_type::LIST_QUICKLIST_2, _) => (Kind::List, QUICKLIST_2),
        (value_type::STREAM_LISTPACKS, _) => (Kind::Stream, STREAM_1),
        (value_type::STREAM_LISTPACKS_2, _) => (Kind::Stream, STREAM_2),
        (value_type::STREAM_LISTPACKS_3, _) => (Kind::Stream, STREAM_3),
        (value_type::VALKEY_HASH_2, Valkey) => (Kind::Hash, VALKEY_HASH_2),
        (value_type::HASH_METADATA_PRE_GA, Redis) => (Kind::Hash, HASH_PRE_GA),
        (value_type::HASH_LISTPACK_EX_PRE_GA, Redis) => (Kind::Hash, BLOB),
        (value_type::HASH_METADATA, Redis) => (Kind::Hash, HASH_METADATA),
        (value_type::HASH_LISTPACK_EX, Redis) => (Kind::Hash, HASH_LISTPACK_EX),
        (value_type::STREAM_LISTPACKS_4, Redis) => (Kind::Stream, STREAM_4),
        (value_type::CRON, Redis) => (Kind::Cron, CRON),
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
        opcode::EOF => "the end",
        opcode::SELECTDB => "SELECTDB",
        opcode::EXPIRETIME => "EXPIRETIME",
        opcode::EXPIRETIME_MS => "EXPIRETIME_MS",
        opcode::RESIZEDB => "RESIZEDB",
        opcode::AUX => "an AUX field",
        opcode::FREQ => "FREQ",
        opcode::IDLE => "IDLE",
        opcode::MODULE_AUX => "MODULE_AUX",
        opcode::FUNCTION2 => "a function library",
        opcode::SLOT_INFO => "SLOT_INFO",
        opcode::KEY_META if family == Family::Redis => "KEY_META",
        opcode::SLOT_IMPORT => "SLOT_IMPORT",
        _ => match key(family, byte) {
            Some((kind, _)) => return format!("a key of type {byte} ({})", kind.name()),
            None => return format!("a record of the unknown type 0x{byte:02X} ({byte})"),
        },
    };
    name.to_owned()
}

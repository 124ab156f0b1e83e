//! The numbers of RDB: opcodes and value types, by the servers' own names (PROTOCOL.md D.4, D.5). The only place that has them.
//!
//! Redis and Valkey gave some numbers to different things. Such a number has a name for each.

/// What a record that is no key begins with.
pub mod opcode {
    /// Redis: data of modules at a key.
    pub const KEY_META: u8 = 0xF3;
    /// Valkey: a slot that is being imported.
    pub const SLOT_IMPORT: u8 = 0xF3;
    /// Sizes of a slot of a cluster.
    pub const SLOT_INFO: u8 = 0xF4;
    /// The source of a function library.
    pub const FUNCTION2: u8 = 0xF5;
    /// Data of a module that belongs to no key.
    pub const MODULE_AUX: u8 = 0xF7;
    /// Seconds since the next key was used.
    pub const IDLE: u8 = 0xF8;
    /// How often the next key is used.
    pub const FREQ: u8 = 0xF9;
    /// A field about the file.
    pub const AUX: u8 = 0xFA;
    /// How many keys the database has.
    pub const RESIZEDB: u8 = 0xFB;
    /// When the next key expires, Unix milliseconds.
    pub const EXPIRETIME_MS: u8 = 0xFC;
    /// When the next key expires, Unix seconds.
    pub const EXPIRETIME: u8 = 0xFD;
    /// The keys of another database follow.
    pub const SELECTDB: u8 = 0xFE;
    /// The end; the checksum follows.
    pub const EOF: u8 = 0xFF;
}

/// The type and encoding of a value.
pub mod value_type {
    /// A string.
    pub const STRING: u8 = 0;
    /// A list, element by element.
    pub const LIST: u8 = 1;
    /// A set, member by member.
    pub const SET: u8 = 2;
    /// A sorted set with scores as text.
    pub const ZSET: u8 = 3;
    /// A hash, field by field.
    pub const HASH: u8 = 4;
    /// A sorted set with binary scores.
    pub const ZSET_2: u8 = 5;
    /// A value of a module.
    pub const MODULE_2: u8 = 7;
    /// A hash as zipmap.
    pub const HASH_ZIPMAP: u8 = 9;
    /// A list as one ziplist.
    pub const LIST_ZIPLIST: u8 = 10;
    /// A set as intset.
    pub const SET_INTSET: u8 = 11;
    /// A sorted set as ziplist.
    pub const ZSET_ZIPLIST: u8 = 12;
    /// A hash as ziplist.
    pub const HASH_ZIPLIST: u8 = 13;
    /// A list as ziplists.
    pub const LIST_QUICKLIST: u8 = 14;
    /// A stream of Redis 5.
    pub const STREAM_LISTPACKS: u8 = 15;
    /// A hash as listpack.
    pub const HASH_LISTPACK: u8 = 16;
    /// A sorted set as listpack.
    pub const ZSET_LISTPACK: u8 = 17;
    /// A list as listpacks and plain nodes.
    pub const LIST_QUICKLIST_2: u8 = 18;
    /// A stream of Redis 7.0.
    pub const STREAM_LISTPACKS_2: u8 = 19;
    /// A set as listpack.
    pub const SET_LISTPACK: u8 = 20;
    /// A stream of Redis 7.2.
    pub const STREAM_LISTPACKS_3: u8 = 21;
    /// Valkey 9: a hash with expiries of fields.
    pub const VALKEY_HASH_2: u8 = 22;
    /// Redis before 7.4: a hash with expiries of fields.
    pub const HASH_METADATA_PRE_GA: u8 = 22;
    /// Redis before 7.4: the same as listpack.
    pub const HASH_LISTPACK_EX_PRE_GA: u8 = 23;
    /// Redis 7.4: a hash with expiries of fields.
    pub const HASH_METADATA: u8 = 24;
    /// Redis 7.4: the same as listpack.
    pub const HASH_LISTPACK_EX: u8 = 25;
    /// A stream of Redis 8.6.
    pub const STREAM_LISTPACKS_4: u8 = 26;
    /// KeyDB: a cron job.
    pub const CRON: u8 = 64;
    /// No type is greater.
    pub const LAST: u8 = CRON;
}

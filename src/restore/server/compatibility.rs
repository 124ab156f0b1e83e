//! Which server loads which snapshot. A target is checked before it is changed, because most servers drop their data
//! before they notice that they cannot read the new data (PROTOCOL.md E.2, E.3).

use std::fmt;

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flavour {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
    /// KeyDB.
    KeyDb,
}

/// What `INFO server` says that a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Server {
    /// Whose.
    pub flavour: Flavour,
    /// Major, minor and patch number of its own version.
    pub version: (u32, u32, u32),
}

/// May a server load a snapshot?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loads {
    /// It may.
    Yes,
    /// It refuses it.
    No,
    /// This version of server or snapshot came after this table.
    Unknown,
}

/// From this version on, the newest `REDISnnnn` that is read (PROTOCOL.md 0.1, E.2). Newest last.
const REDIS: [((u32, u32), u32); 13] = [
    ((2, 2), 1),
    ((2, 4), 2),
    ((2, 6), 6),
    ((3, 2), 7),
    ((4, 0), 8),
    ((5, 0), 9),
    ((7, 0), 10),
    ((7, 2), 11),
    ((7, 4), 12),
    ((8, 6), 13),
    ((8, 8), 14),
    ((8, 10), 15),
    ((8, 12), 16),
];
/// The same for Valkey. Redis 7.4 and later write other formats under these numbers, which Valkey refuses.
const VALKEY_REDIS: [((u32, u32), u32); 1] = [((7, 2), 11)];
/// From this version on, the newest `VALKEYnnn`.
const VALKEY_VALKEY: [((u32, u32), u32); 2] = [((9, 0), 80), ((9, 2), 81)];
/// KeyDB is at Redis 6's format in all its versions.
const KEYDB: [((u32, u32), u32); 1] = [((0, 0), 9)];

/// Every Valkey began as this Redis.
const VALKEY_LEVEL: (u32, u32) = (7, 2);
/// KeyDB took over from Redis up to this version.
const KEYDB_LEVEL: (u32, u32) = (6, 2);

impl Server {
    /// From the names that a manifest uses: `redis`, `valkey`, `keydb`, and a version such as `7.0.15`.
    #[must_use]
    pub(crate) fn named(flavour: &str, version: &str) -> Option<Self> {
        let flavour = match flavour.to_ascii_lowercase().as_str() {
            "redis" => Flavour::Redis,
            "valkey" => Flavour::Valkey,
            "keydb" => Flavour::KeyDb,
            _ => return None,
        };
        Self::new(flavour, version)
    }

    fn new(flavour: Flavour, version: &str) -> Option<Self> {
        let mut parts = version
            .split(['.', '-'])
            .map_while(|part| part.parse::<u32>().ok());
        let version = (
            parts.next()?,
            parts.next().unwrap_or(0),
            parts.next().unwrap_or(0),
        );
        Some(Self { flavour, version })
    }

    /// Is it at least this version of Redis, or a Valkey (which began as Redis 7.2) that has what that version had?
    #[must_use]
    pub(crate) fn has_redis(&self, major: u32, minor: u32) -> bool {
        match self.flavour {
            Flavour::Redis => self.at_least(major, minor),
            Flavour::Valkey => (major, minor) <= VALKEY_LEVEL,
            Flavour::KeyDb => (major, minor) <= KEYDB_LEVEL,
        }
    }

    /// May this server lack options of commands that `writer` sends? Yes, if it is older (major and minor number) than
    /// a writer of its own kind, or if it is derived from an older Redis than a writer of another kind. A replica skips
    /// what it does not understand without an error.
    #[must_use]
    pub(crate) fn is_behind(&self, writer: Server) -> bool {
        if self.flavour == writer.flavour {
            let (major, minor, _) = writer.version;
            return !self.at_least(major, minor);
        }
        let (major, minor) = writer.redis_level();
        !self.has_redis(major, minor)
    }

    /// The version of Redis whose commands it has. What Valkey or KeyDB added since are commands of their own.
    fn redis_level(&self) -> (u32, u32) {
        match self.flavour {
            Flavour::Redis => (self.version.0, self.version.1),
            Flavour::Valkey => VALKEY_LEVEL,
            Flavour::KeyDb => KEYDB_LEVEL,
        }
    }

    /// Does it keep its AOF in a directory (`appendonlydir`, Redis 7.0 on) rather than in one file?
    #[must_use]
    pub(crate) fn has_aof_directory(&self) -> bool {
        self.has_redis(7, 0)
    }

    /// May it load an RDB with this magic, written by that server if that is known?
    #[must_use]
    pub(crate) fn loads(&self, magic: &str, writer: Option<Server>) -> Loads {
        // What a server wrote can be read by the same or a newer one of its kind.
        if writer.is_some_and(|w| w.flavour == self.flavour && self.version >= w.version) {
            return Loads::Yes;
        }
        let Some((family, version)) = parse_magic(magic) else {
            return Loads::Unknown;
        };
        let table: &[((u32, u32), u32)] = match (self.flavour, family) {
            (Flavour::Redis, "REDIS") => &REDIS,
            (Flavour::Valkey, "REDIS") => &VALKEY_REDIS,
            (Flavour::Valkey, "VALKEY") => &VALKEY_VALKEY,
            (Flavour::KeyDb, "REDIS") => &KEYDB,
            _ => return Loads::No,
        };
        let newest = table
            .iter()
            .rev()
            .find(|((major, minor), _)| self.at_least(*major, *minor));
        if newest.is_some_and(|(_, newest)| version <= *newest) {
            return Loads::Yes;
        }
        // A server newer than the table's last line may read newer formats of its own family than the table knows.
        let own = matches!(
            (self.flavour, family),
            (Flavour::Redis, "REDIS") | (Flavour::Valkey, "VALKEY")
        );
        let beyond = |((major, minor), _): &((u32, u32), u32)| {
            (self.version.0, self.version.1) > (*major, *minor)
        };
        if own && table.last().is_some_and(beyond) {
            Loads::Unknown
        } else {
            Loads::No
        }
    }

    /// The newest `REDISnnnn` that it loads. Redis writes that.
    #[must_use]
    pub(crate) fn redis_format(&self) -> Option<u32> {
        let table: &[((u32, u32), u32)] = match self.flavour {
            Flavour::Redis => &REDIS,
            Flavour::Valkey => &VALKEY_REDIS,
            Flavour::KeyDb => &KEYDB,
        };
        let mut newest_first = table.iter().rev();
        let newest = newest_first.find(|((major, minor), _)| self.at_least(*major, *minor));
        newest.map(|(_, format)| *format)
    }

    fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.version.0, self.version.1) >= (major, minor)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.flavour {
            Flavour::Redis => "Redis",
            Flavour::Valkey => "Valkey",
            Flavour::KeyDb => "KeyDB",
        };
        let (major, minor, patch) = self.version;
        write!(f, "{name} {major}.{minor}.{patch}")
    }
}

/// `REDIS0011` → (`REDIS`, 11); `VALKEY080` → (`VALKEY`, 80).
pub(crate) fn parse_magic(magic: &str) -> Option<(&str, u32)> {
    let digits = magic.find(|c: char| c.is_ascii_digit())?;
    let (family, version) = magic.split_at_checked(digits)?;
    Some((family, version.parse().ok()?))
}

/// The module that `MODULE LIST` must show for values of an RDB type name (nine characters, module API). `None` for a
/// type that this table does not know.
#[must_use]
pub(crate) fn module_of_type(type_name: &str) -> Option<&'static str> {
    const TYPES: [(&str, &str); 10] = [
        ("vectorset", "vectorset"), // built into Redis 8.0 and later, and listed there as a module
        ("ReJSON-RL", "ReJSON"),
        ("TSDB-TYPE", "timeseries"),
        ("MBbloom--", "bf"),
        ("MBbloomCF", "bf"),
        ("CMSk-TYPE", "bf"),
        ("TopK-TYPE", "bf"),
        ("TDIS-TYPE", "bf"),
        ("ft_index0", "search"),
        ("ft_invidx", "search"),
    ];
    TYPES
        .iter()
        .find(|(known, _)| *known == type_name)
        .map(|(_, module)| *module)
}

/// What is wrong with a target that has no module for values of an RDB type name.
pub(crate) fn lacks_module_of(type_name: &str) -> String {
    match module_of_type(type_name) {
        Some(module) => format!(
            "lacks the module {module} for values of type {type_name}, and would exit while it loads them"
        ),
        None => format!(
            "has no module, but the backup holds module values of type {type_name}: it would exit while it loads them. \
             Load the module there. MODULE LIST on the server that was backed up shows its name"
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn server(flavour: &str, version: &str) -> Server {
        Server::named(flavour, version).unwrap()
    }

    #[test]
    fn the_table_of_the_fact_sheet_holds() {
        // PROTOCOL.md E.2: target, newest REDIS accepted, VALKEY080 accepted
        for (flavour, version, newest, valkey80) in [
            ("redis", "5.0.14", 9, false),
            ("redis", "6.0.20", 9, false),
            ("redis", "6.2.16", 9, false),
            ("redis", "7.0.15", 10, false),
            ("redis", "7.2.6", 11, false),
            ("redis", "7.4.1", 12, false),
            ("redis", "8.0.6", 12, false),
            ("redis", "8.4.0", 12, false),
            ("redis", "8.6.3", 13, false),
            ("keydb", "6.3.4", 9, false),
            ("valkey", "7.2.9", 11, false),
            ("valkey", "8.0.1", 11, false),
            ("valkey", "8.1.1", 11, false),
            ("valkey", "9.1.2", 11, true),
        ] {
            let target = server(flavour, version);
            for rdb in 1..=16 {
                let wanted = if rdb <= newest { Loads::Yes } else { Loads::No };
                assert_eq!(
                    target.loads(&format!("REDIS{rdb:04}"), None),
                    wanted,
                    "{target}, RDB {rdb}"
                );
            }
            let wanted = if valkey80 { Loads::Yes } else { Loads::No };
            assert_eq!(target.loads("VALKEY080", None), wanted, "{target}");
        }
        assert_eq!(
            server("valkey", "9.1.2").loads("VALKEY081", None),
            Loads::No
        );
    }

    #[test]
    fn what_came_after_the_table_is_unknown_unless_the_same_kind_of_server_wrote_it() {
        let new = server("redis", "9.2.0");
        assert_eq!(new.loads("REDIS0016", None), Loads::Yes);
        assert_eq!(new.loads("REDIS0020", None), Loads::Unknown);
        assert_eq!(
            new.loads("REDIS0020", Some(server("redis", "9.0.1"))),
            Loads::Yes
        );
        assert_eq!(
            new.loads("REDIS0020", Some(server("redis", "9.3.0"))),
            Loads::Unknown
        );
        assert_eq!(
            new.loads("VALKEY080", Some(server("valkey", "9.0.1"))),
            Loads::No
        );
        assert_eq!(
            server("valkey", "10.0.0").loads("VALKEY085", None),
            Loads::Unknown
        );
        assert_eq!(
            server("redis", "8.6.3").loads("nonsense", None),
            Loads::Unknown
        );
    }

    #[test]
    fn servers_are_named_by_flavour_and_version() {
        assert_eq!(server("redis", "7.4-rc1").to_string(), "Redis 7.4.0");
        assert_eq!(Server::named("unknown", "1.0"), None);
    }

    #[test]
    fn features_go_by_the_redis_version_they_came_with() {
        assert!(server("valkey", "8.0.0").has_redis(7, 0));
        assert!(
            !server("valkey", "9.1.0").has_redis(7, 4),
            "field TTLs of Valkey are others"
        );
        assert!(!server("keydb", "6.3.4").has_aof_directory());
        assert!(!server("redis", "6.2.0").has_aof_directory());
        assert!(server("redis", "7.0.0").has_aof_directory());
        assert_eq!(module_of_type("vectorset"), Some("vectorset"));
        assert_eq!(module_of_type("something"), None);
        let known = lacks_module_of("ReJSON-RL");
        assert!(known.contains("the module ReJSON for"), "{known}");
        let unknown = lacks_module_of("mem-type1");
        assert!(
            unknown.contains("of type mem-type1") && unknown.contains("MODULE LIST"),
            "{unknown}"
        );
    }

    #[test]
    fn a_target_is_behind_what_is_newer_or_began_as_a_newer_redis() {
        for (target, writer, behind) in [
            (("redis", "6.0.20"), ("redis", "6.2.16"), true),
            (("redis", "7.0.4"), ("redis", "7.0.15"), false),
            (("redis", "7.2.6"), ("redis", "7.0.15"), false),
            (("valkey", "8.0.1"), ("valkey", "8.1.0"), true),
            (("valkey", "8.1.0"), ("valkey", "8.0.1"), false),
            (("valkey", "7.2.5"), ("redis", "7.2.6"), false),
            (("valkey", "9.1.0"), ("redis", "7.4.1"), true),
            (("redis", "7.0.15"), ("valkey", "8.1.0"), true),
            (("redis", "7.2.6"), ("valkey", "8.1.0"), false),
            (("keydb", "6.3.4"), ("redis", "6.2.16"), false),
            (("keydb", "6.3.4"), ("redis", "7.0.15"), true),
            (("redis", "6.0.20"), ("keydb", "6.3.4"), true),
        ] {
            let ((flavour, version), (by, of)) = (target, writer);
            let found = server(flavour, version).is_behind(server(by, of));
            assert_eq!(found, behind, "{target:?} after {writer:?}");
        }
    }
}

//! What `INFO` says about a server, as far as we need it.

use std::collections::BTreeMap;

use super::health::Health;
use crate::wire::position::{Offset, Position, ReplId};

/// A server's role in replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Master,
    /// It follows another.
    Replica {
        /// Its master's host, as it was configured.
        host: String,
        /// Its master's port.
        port: u16,
        /// Is the link to its master up?
        link_up: bool,
    },
    /// `INFO` did not say.
    Unknown,
}

/// The parts of `INFO` that matter to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `redis`, `valkey`, `keydb`, or `unknown`.
    pub flavour: String,
    /// The server's own version, such as `7.0.15` (Valkey's, not the one it pretends to for old clients).
    pub version: String,
    /// Its role.
    pub role: Role,
    /// Its replication id.
    pub replid: Option<ReplId>,
    /// The id before it was promoted, and up to which offset that one is continued.
    pub replid2: Option<(ReplId, Offset)>,
    /// How far its stream has come.
    pub offset: Option<Offset>,
    /// Its clock, Unix milliseconds. Redis 6.0 does not show it here.
    pub time_unix_ms: Option<i64>,
    /// Keys per database.
    pub keys: BTreeMap<u32, u64>,
    /// Loading a data set.
    pub loading: bool,
    /// For how long it has run at least, in milliseconds, if it started empty: it loaded no key, and was nobody's replica
    /// since. None if it does not say so (before 7.0), or has an append-only file.
    pub started_empty_ms: Option<u64>,
    /// Cluster mode.
    pub cluster: bool,
    /// In a graceful shutdown that waits for its replicas (7.0 and later).
    pub shutting_down: bool,
    /// Libraries of functions (7.0 and later).
    pub libraries: u64,
    /// Size of the replication backlog in bytes.
    pub backlog_size: Option<u64>,
    /// The number of the first byte in the backlog. None when it has no backlog.
    pub backlog_first: Option<u64>,
    /// Its limits, its disk, what it refused.
    pub health: Health,
}

impl Facts {
    /// Reads the text of `INFO`.
    #[must_use]
    pub fn parse(info: &str) -> Self {
        let fields: BTreeMap<&str, &str> = info
            .lines()
            .filter_map(|line| line.trim_end().split_once(':'))
            .collect();
        let field = |name: &str| fields.get(name).copied();
        let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
        let (flavour, version) = flavour(&fields);
        let replid2 = field("master_replid2")
            .filter(|id| id.bytes().any(|byte| byte != b'0'))
            .and_then(|id| id.parse().ok())
            .zip(number("second_repl_offset").map(Offset::before_byte));
        Self {
            flavour,
            version,
            role: role(&fields),
            replid: field("master_replid").and_then(|id| id.parse().ok()),
            replid2,
            offset: number("master_repl_offset").map(Offset),
            time_unix_ms: number("server_time_usec")
                .and_then(|micros| i64::try_from(micros / 1000).ok()),
            keys: fields
                .iter()
                .filter_map(|(name, text)| database(name, text))
                .collect(),
            loading: field("loading").is_some_and(|text| text != "0"),
            started_empty_ms: least_uptime_ms(
                number("uptime_in_seconds"),
                number("server_time_usec"),
            )
            .filter(|_| {
                number("rdb_last_load_keys_loaded") == Some(0)
                    && field("aof_enabled") == Some("0")
                    && replid2.is_none()
            }),
            cluster: field("cluster_enabled") == Some("1"),
            shutting_down: field("shutdown_in_milliseconds").is_some(),
            libraries: number("number_of_libraries").unwrap_or(0),
            backlog_size: number("repl_backlog_size"),
            backlog_first: number("repl_backlog_first_byte_offset")
                .filter(|_| field("repl_backlog_active") == Some("1")),
            health: Health::of(&fields),
        }
    }

    /// How far its stream has come, with the history that it is in.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        let (history, offset) = self.replid.zip(self.offset)?;
        Some(Position { history, offset })
    }

    /// The history that it left when it was promoted, and the last byte that it has of it. What others have received of
    /// that history beyond it belongs to a branch that this server does not continue.
    #[must_use]
    pub fn branched_off(&self) -> Option<(ReplId, Offset)> {
        self.replid2.filter(|(old, _)| Some(*old) != self.replid)
    }

    /// The same with the ids by which the store knows its histories.
    #[must_use]
    pub fn named(&self, key: impl Fn(ReplId) -> ReplId) -> Self {
        Self {
            replid: self.replid.map(&key),
            replid2: self.replid2.map(|(id, at)| (key(id), at)),
            ..self.clone()
        }
    }

    /// Would it continue the feed after `from`? (PROTOCOL.md A.3. This may have changed since it was asked.)
    #[must_use]
    pub fn would_continue(&self, from: Position) -> bool {
        let known = match (self.replid, self.replid2) {
            (Some(id), _) if id == from.history => {
                self.offset.is_some_and(|end| from.offset <= end)
            }
            (_, Some((id, shared))) if id == from.history => from.offset <= shared,
            _ => false,
        };
        known
            && self
                .backlog_first
                .is_some_and(|first| first <= from.offset.next_byte())
    }

    /// Is it a KeyDB? It follows a master in a way of its own, and is not tested.
    #[must_use]
    pub fn is_keydb(&self) -> bool {
        self.flavour == "keydb"
    }

    /// May it continue the feed after `from`, if it has written more since it was asked? (Another writer may have
    /// stored more meanwhile.)
    #[must_use]
    pub fn may_continue(&self, from: Position) -> bool {
        self.later(from).would_continue(from)
    }

    /// Its facts when it has come to that point.
    #[must_use]
    pub fn later(&self, end: Position) -> Self {
        let mut later = self.clone();
        if self.replid == Some(end.history) {
            later.offset = self.offset.max(Some(end.offset));
        }
        later
    }

    /// The same, with room to spare: its backlog has room for more before it loses what follows `from`.
    #[must_use]
    pub fn backlog_begins(&self) -> Option<(Offset, Offset)> {
        let room = (self.backlog_size? / 4).saturating_mul(3);
        let first = Offset::before_byte(self.backlog_first?);
        Some((first, first.max(self.offset?.minus(room))))
    }

    /// Keys in all databases.
    #[must_use]
    pub fn total_keys(&self) -> u64 {
        self.keys
            .values()
            .fold(0, |sum, keys| sum.saturating_add(*keys))
    }

    /// The first number of the version.
    #[must_use]
    pub fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

fn flavour(fields: &BTreeMap<&str, &str>) -> (String, String) {
    let named = fields.get("server_name").copied();
    if let Some(version) = fields.get("valkey_version") {
        return ("valkey".to_owned(), (*version).to_owned());
    }
    let version = fields
        .get("redis_version")
        .copied()
        .unwrap_or_default()
        .to_owned();
    // KeyDB has no field of its own but its executable's name.
    let executable = fields.get("executable").copied().unwrap_or_default();
    let flavour = match named {
        Some("valkey") => "valkey",
        _ if executable.contains("keydb") || fields.contains_key("keydb_version") => "keydb",
        _ if version.is_empty() => "unknown",
        _ => "redis",
    };
    (flavour.to_owned(), version)
}

/// A server counts its uptime in whole seconds of its clock: it started anywhere in the second that this leads back to.
fn least_uptime_ms(uptime_s: Option<u64>, time_us: Option<u64>) -> Option<u64> {
    let since_second_ms = time_us.unwrap_or(0) / 1000 % 1000;
    let at_most = uptime_s?
        .saturating_mul(1000)
        .saturating_add(since_second_ms);
    Some(at_most.saturating_sub(1000))
}

fn role(fields: &BTreeMap<&str, &str>) -> Role {
    match fields.get("role").copied() {
        Some("master") => Role::Master,
        Some("slave" | "replica") => Role::Replica {
            host: fields
                .get("master_host")
                .copied()
                .unwrap_or_default()
                .to_owned(),
            port: fields
                .get("master_port")
                .and_then(|port| port.parse().ok())
                .unwrap_or(0),
            link_up: fields.get("master_link_status").copied() == Some("up"),
        },
        _ => Role::Unknown,
    }
}

/// `db0:keys=12,expires=3,avg_ttl=0`
fn database(name: &str, text: &str) -> Option<(u32, u64)> {
    let db = name.strip_prefix("db")?.parse().ok()?;
    let keys = text
        .split(',')
        .find_map(|part| part.strip_prefix("keys="))?
        .parse()
        .ok()?;
    Some((db, keys))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_promoted_valkey_is_read_from_its_info() {
        let info = "# Server\r\nredis_version:7.2.4\r\nrun_id:0f0f\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n\
                    executable:/usr/bin/valkey-server\r\nshutdown_in_milliseconds:900\r\n# Replication\r\nrole:master\r\n\
                    master_replid:0123456789abcdef0123456789abcdef01234567\r\n\
                    master_replid2:fedcba9876543210fedcba9876543210fedcba98\r\nmaster_repl_offset:200\r\n\
                    second_repl_offset:101\r\nrepl_backlog_active:1\r\nrepl_backlog_first_byte_offset:51\r\n# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=9\r\ndb15:keys=1,expires=0\r\n";
        let facts = Facts::parse(info);
        assert_eq!(
            (facts.flavour.as_str(), facts.version.as_str()),
            ("valkey", "9.1.2")
        );
        assert_eq!(facts.role, Role::Master);
        assert_eq!(facts.health.run_id.as_deref(), Some("0f0f"));
        assert_eq!(facts.replid2.unwrap().1, Offset(100));
        assert_eq!(facts.keys, BTreeMap::from([(0, 3), (15, 1)]));
        let (new, old) = (facts.replid.unwrap(), facts.replid2.unwrap().0);
        for (history, continued) in [(new, 50..=200), (old, 50..=100)] {
            for offset in [0, 49, 50, 100, 101, 200, 201] {
                let from = Position {
                    history,
                    offset: Offset(offset),
                };
                assert_eq!(
                    facts.would_continue(from),
                    continued.contains(&offset),
                    "{from}"
                );
                let may = continued.contains(&offset) || (history == new && offset == 201);
                assert_eq!(facts.may_continue(from), may, "{from}");
            }
        }
        assert_eq!((facts.total_keys(), facts.shutting_down), (4, true));
    }

    #[test]
    fn a_server_that_started_empty_has_run_for_as_long_as_is_certain() {
        let info = |uptime: u64, time_us: &str| {
            format!(
                "{time_us}uptime_in_seconds:{uptime}\r\naof_enabled:0\r\nrdb_last_load_keys_loaded:0\r\nrole:master\r\n"
            )
        };
        let ran = |uptime, time_us: &str| Facts::parse(&info(uptime, time_us)).started_empty_ms;
        // It is 0.25 s after a second, and 7 such seconds have begun since it started: 6.25 s at least.
        assert_eq!(ran(7, "server_time_usec:1796039884250999\r\n"), Some(6250));
        assert_eq!(ran(7, ""), Some(6000));
        assert_eq!(ran(0, "server_time_usec:1796039884250999\r\n"), Some(0));
        let loaded = info(7, "").replace("keys_loaded:0", "keys_loaded:1");
        assert_eq!(Facts::parse(&loaded).started_empty_ms, None);
        let old = info(7, "").replace("rdb_last_load_keys_loaded", "x");
        assert_eq!(Facts::parse(&old).started_empty_ms, None);
        let promoted = format!(
            "master_replid2:{}\r\nsecond_repl_offset:9\r\n",
            "a".repeat(40)
        );
        let promoted = Facts::parse(&(info(7, "") + &promoted));
        assert_eq!(promoted.started_empty_ms, None);
    }

    #[test]
    fn a_replica_says_whose_it_is_and_an_unset_second_id_is_none() {
        let info = format!(
            "redis_version:6.0.16\nrole:slave\nmaster_host:127.0.0.1\nmaster_port:6390\nmaster_link_status:down\n\
             master_replid:{}\nmaster_replid2:{}\nsecond_repl_offset:-1\n",
            "a".repeat(40),
            "0".repeat(40)
        );
        let facts = Facts::parse(&info);
        let role = Role::Replica {
            host: "127.0.0.1".into(),
            port: 6390,
            link_up: false,
        };
        assert_eq!(
            (facts.total_keys(), facts.replid2, facts.role),
            (0, None, role)
        );
    }
}

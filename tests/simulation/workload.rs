//! What clients write: simple commands on a few keys, as a server puts them into its feed.

use super::model::{Key, Text, Value, text};
use super::{Sim, note};
use crate::runtime::simulated::{below, between, once_in, pick};

/// Names of a type, so few that commands meet.
const NAMES: u64 = 4;

fn value(huge: bool) -> Text {
    let length = match below(40) {
        0 => between(1000, 4000),
        1 if huge && once_in(3) => between(60_000, 200_000),
        _ => between(1, 20),
    };
    let letter = b'a' + below(26) as u8;
    let mut bytes = vec![letter; length as usize];
    // Not all the same, or it would be next to nothing when compressed.
    for byte in bytes.iter_mut().step_by(3) {
        *byte = b'a' + below(26) as u8;
    }
    text(bytes)
}

fn words(words: &[&str]) -> Vec<Text> {
    words.iter().map(text).collect()
}

impl Sim {
    /// Clients write something.
    pub(crate) fn clients(&mut self, node: usize, count: u64) {
        for _ in 0..count {
            self.client(node);
        }
        let offset = self.nodes[node].offset;
        note(|| format!("node {node} is at {offset}"));
    }

    fn client(&mut self, node: usize) {
        let server = &self.nodes[node];
        if !server.up || !server.is_master() || server.loading || server.shutting_down {
            return;
        }
        self.expire(node);
        let db = if once_in(4) { below(3) as u32 } else { 0 };
        if once_in(10) {
            let mut unit = vec![words(&["MULTI"])];
            for _ in 0..between(1, 4) {
                // What a transaction does to a key must be seen by its next command: one key each.
                let taken: Vec<Text> = unit
                    .iter()
                    .filter_map(|argv| argv.get(1).cloned())
                    .collect();
                if let Some(command) = self.command(node, db)
                    && !taken.contains(&command[1])
                {
                    unit.push(command);
                }
            }
            unit.push(words(&["EXEC"]));
            self.write(node, db, &unit);
        } else if once_in(80) && self.nodes[node].model.dbs.contains_key(&db) {
            self.write(node, db, &[words(&["FLUSHDB"])]);
        } else if let Some(command) = self.command(node, db) {
            self.write(node, db, &[command]);
        }
    }

    /// Keys whose time has come go, with a `DEL` in the feed.
    fn expire(&mut self, node: usize) {
        let now = self.now_ms();
        let over = |key: &Key| key.expiry.is_some_and(|at| at <= now);
        let dbs = self.nodes[node].model.dbs.iter();
        let gone: Vec<(u32, Text)> = dbs
            .flat_map(|(db, keys)| {
                let gone = keys.iter().filter(|(_, key)| over(key));
                gone.map(|(name, _)| (*db, name.clone()))
            })
            .collect();
        for (db, name) in gone {
            self.write(node, db, &[vec![text("DEL"), name]]);
        }
    }

    fn value(&self) -> Text {
        value(self.huge)
    }

    fn command(&self, node: usize, db: u32) -> Option<Vec<Text>> {
        let kind = pick(&['s', 's', 'n', 'l', 'l', 'h', 'h', 'e', 'e']);
        let key = text(format!("{kind}{}", below(NAMES)));
        let server = &self.nodes[node];
        let there = server.model.dbs.get(&db).and_then(|keys| keys.get(&key));
        let old = server.version == 6;
        let now = self.now_ms();
        if let Some(there) = there
            && once_in(6)
        {
            return Some(match below(4) {
                0 => vec![text("DEL"), key],
                1 if there.expiry.is_some() => vec![text("PERSIST"), key],
                // Hours: what is relative must be told from an outage of minutes.
                _ if old => {
                    let seconds = between(2, 9) * 3600 * 10;
                    match below(2) {
                        0 => vec![text("EXPIRE"), key, text(seconds.to_string())],
                        _ => vec![text("PEXPIRE"), key, text((seconds * 1000).to_string())],
                    }
                }
                _ => {
                    let at = now + between(1, 200_000) as i64;
                    vec![text("PEXPIREAT"), key, text(at.to_string())]
                }
            });
        }
        let few = || text(format!("m{}", below(6)));
        Some(match (kind, there.map(|there| &*there.value)) {
            ('s', None) if old && once_in(4) => {
                vec![
                    text("SETEX"),
                    key,
                    text((between(2, 9) * 36_000).to_string()),
                    self.value(),
                ]
            }
            ('s', _) if !old && once_in(8) => {
                let at = now + between(1, 100_000) as i64;
                vec![
                    text("SET"),
                    key,
                    self.value(),
                    text("PXAT"),
                    text(at.to_string()),
                ]
            }
            ('s', Some(_)) if once_in(4) => vec![text("APPEND"), key, text("+")],
            ('s', _) => vec![text("SET"), key, self.value()],
            ('n', _) => vec![text("INCR"), key],
            ('l', Some(_)) if once_in(3) => vec![text("LPOP"), key],
            ('l', _) => vec![text(pick(&["RPUSH", "LPUSH"])), key, self.value()],
            ('h', Some(Value::Hash(hash))) if once_in(3) => {
                let field = hash.keys().next().cloned()?;
                vec![text("HDEL"), key, field]
            }
            ('h', _) => vec![text("HSET"), key, few(), self.value()],
            (_, Some(Value::Set(set))) if once_in(3) => {
                let member = set.iter().next().cloned()?;
                vec![text("SREM"), key, member]
            }
            (_, there) => {
                let member = few();
                if let Some(Value::Set(set)) = there
                    && set.contains(&member)
                {
                    return None;
                }
                vec![text("SADD"), key, member]
            }
        })
    }
}

//! `backfeed list` of the place of a cluster: its shards, and how its slot map has changed.

use std::fmt;

use serde::Serialize;

use crate::archive::{ArchiveError, ClusterPlace, MappedShard, SlotMap, shard_url};
use crate::display;

/// Maps that are read and shown, the newest ones: a resharding makes many.
const MAPS: u64 = 100;

/// What lies there. The names of its fields are part of the interface (`--json`).
#[derive(Debug, Serialize)]
pub(super) struct ClusterListing {
    /// The place.
    store: String,
    /// How many slot maps there are.
    map_count: u64,
    /// The newest of them, oldest first.
    maps: Vec<SlotMap>,
    /// The shards of the newest one.
    shards: Vec<ShardShown>,
}

#[derive(Debug, Serialize)]
struct ShardShown {
    name: String,
    /// Its archive.
    store: String,
    slots: String,
    master: Option<String>,
    nodes: usize,
}

impl ShardShown {
    fn of(shard: &MappedShard, place: &str) -> Self {
        let master = shard.nodes.iter().find(|node| node.id == shard.master);
        Self {
            name: shard.name.clone(),
            store: shard_url(place, &shard.name),
            slots: shard.to_string(),
            master: master.map(|node| node.addr.clone()),
            nodes: shard.nodes.len(),
        }
    }
}

impl ClusterListing {
    pub(super) async fn gather(place: &ClusterPlace, url: &str) -> Result<Self, ArchiveError> {
        let map_count = place.count().await?;
        let mut maps = Vec::new();
        for number in map_count.saturating_sub(MAPS).saturating_add(1)..=map_count {
            maps.extend(place.map(number).await?);
        }
        let newest = maps.last().into_iter().flat_map(|map| &map.shards);
        let shards = newest.map(|shard| ShardShown::of(shard, url)).collect();
        Ok(Self {
            store: place.store().url(),
            map_count,
            maps,
            shards,
        })
    }
}

/// What is different in `map`, in words.
fn changes(before: Option<&SlotMap>, map: &SlotMap) -> Vec<String> {
    let mut changes = Vec::new();
    for shard in &map.shards {
        let Some(old) = before.and_then(|map| map.shard(&shard.name)) else {
            changes.push(format!("{} begins with {shard}", shard.name));
            continue;
        };
        if old.slots != shard.slots {
            changes.push(format!("{} has {shard}", shard.name));
        }
        if old.master != shard.master {
            changes.push(format!(
                "{} has another master, {}",
                shard.name, shard.master
            ));
        } else if old.nodes != shard.nodes {
            changes.push(format!("{} has other replicas", shard.name));
        }
    }
    let before = before.into_iter().flat_map(|map| &map.shards);
    for gone in before.filter(|old| map.shard(&old.name).is_none()) {
        changes.push(format!("{} ends", gone.name));
    }
    changes
}

impl fmt::Display for ClusterListing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = display::counted(self.shards.len() as u64, "shard");
        writeln!(f, "{}: a cluster of {shards}\n", self.store)?;
        for shard in &self.shards {
            let master = shard.master.as_deref().unwrap_or("unknown");
            writeln!(f, "shard {}", shard.name)?;
            writeln!(f, "  slots     {}", shard.slots)?;
            writeln!(f, "  master    {master}, {} nodes", shard.nodes)?;
            writeln!(f, "  archive   {}", shard.store)?;
        }
        writeln!(f, "\nslot maps ({} in all)", self.map_count)?;
        let mut before = None;
        for map in &self.maps {
            let seen = display::time(map.seen_unix_ms);
            // The first that is shown is not compared with anything, unless it is the first of all.
            let changes = match map.number > 1 && before.is_none() {
                true => vec![format!("{} shards", map.shards.len())],
                false => changes(before, map),
            };
            for change in changes {
                writeln!(f, "  {:<5} {seen}  {change}", map.number)?;
            }
            before = Some(map);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::FORMAT;

    #[test]
    fn changes_are_told_in_words() {
        let shard = |name: &str, master: &str, slots: &[(u16, u16)]| MappedShard {
            name: name.to_owned(),
            id: None,
            master: master.to_owned(),
            nodes: Vec::new(),
            slots: slots.to_vec(),
        };
        let map = |shards| SlotMap {
            format: FORMAT,
            number: 1,
            seen_unix_ms: 0,
            before_unix_ms: None,
            epoch: 1,
            writer: String::new(),
            shards,
        };
        let one = map(vec![shard("a", "m", &[(0, 9)]), shard("b", "n", &[])]);
        assert_eq!(
            changes(None, &one),
            ["a begins with 0-9", "b begins with no slots"]
        );
        let two = map(vec![shard("a", "m2", &[(0, 4), (6, 6)])]);
        assert_eq!(
            changes(Some(&one), &two),
            ["a has 0-4,6", "a has another master, m2", "b ends"]
        );
    }
}

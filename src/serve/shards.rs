//! Which shard is which: names that no failover changes.
//!
//! Nodes come and go, slots move, and before Redis 7.2 servers have no name for a shard. So the last slot map in the store
//! says what each shard is called, and a shard of now is the one of that map
//!
//! 1. that has the same master; or else
//! 2. that the servers call the same (`CLUSTER MYSHARDID`); or else
//! 3. whose replica is the master now; or else
//! 4. that shares a node and a slot with it.
//!
//! A shard that is none of these is new. It is called as the servers call it, or after the id of its master.

use std::collections::{BTreeMap, BTreeSet};

use crate::archive::{MappedNode, MappedShard, SlotMap};
use crate::link::cluster::{ShardView, View};

/// Ids of shards, by the ids of their masters.
pub(super) type Ids = BTreeMap<String, String>;

/// The masters whose shard is not the one that they were master of: these are asked what they call it.
pub(super) fn to_ask<'a>(
    view: &'a View,
    before: Option<&'a SlotMap>,
) -> impl Iterator<Item = &'a ShardView> {
    view.shards.iter().filter(move |shard| {
        let mut known = before.iter().flat_map(|map| &map.shards);
        !known.any(|before| before.master == shard.master.id)
    })
}

/// The shards of now, by their names. `may_begin`: may a shard that is new, and has no slots yet, begin?
pub(super) fn named(
    view: &View,
    before: Option<&SlotMap>,
    ids: &Ids,
    may_begin: impl Fn(&ShardView) -> bool,
) -> Vec<MappedShard> {
    let known: &[MappedShard] = before.map_or(&[], |map| &map.shards);
    let mut naming = Naming {
        known,
        ids,
        claimed: BTreeSet::new(),
        named: Vec::new(),
    };
    let (with_slots, empty): (Vec<_>, Vec<_>) = view
        .shards
        .iter()
        .partition(|shard| !shard.slots.is_empty());
    let mut left = with_slots;
    let rules: [Rule; 4] = [has_master, has_id, has_promoted, has_node_and_slot];
    for rule in rules {
        left.retain(|shard| !naming.claim(shard, rule));
    }
    for shard in left {
        naming.begin(shard);
    }
    for shard in empty {
        // A master that has failed, and whose replica was promoted, has no slots.
        if shard.master.fails || naming.claim(shard, has_master) {
            continue;
        }
        let mut nodes = known.iter().flat_map(|known| &known.nodes);
        if !nodes.any(|node| node.id == shard.master.id) && may_begin(shard) {
            naming.begin(shard);
        }
    }
    let mut named = naming.named;
    named.sort_by(|one, other| one.name.cmp(&other.name));
    named
}

type Rule = fn(&ShardView, &MappedShard, Option<&String>) -> bool;

fn has_master(shard: &ShardView, known: &MappedShard, _: Option<&String>) -> bool {
    known.master == shard.master.id
}

fn has_id(_: &ShardView, known: &MappedShard, id: Option<&String>) -> bool {
    known.id.is_some() && known.id.as_ref() == id
}

/// Do the servers say that they are two?
fn differs(known: &MappedShard, id: Option<&String>) -> bool {
    known.id.is_some() && id.is_some() && known.id.as_ref() != id
}

fn has_node(known: &MappedShard, id: &str) -> bool {
    known.nodes.iter().any(|node| node.id == id)
}

fn has_promoted(shard: &ShardView, known: &MappedShard, id: Option<&String>) -> bool {
    has_node(known, &shard.master.id) && !differs(known, id)
}

fn has_node_and_slot(shard: &ShardView, known: &MappedShard, id: Option<&String>) -> bool {
    let mut firsts = shard.slots.iter().map(|(first, _)| *first);
    let shares = shard.nodes().any(|node| has_node(known, &node.id));
    shares && firsts.any(|slot| known.has(slot)) && !differs(known, id)
}

struct Naming<'a> {
    known: &'a [MappedShard],
    ids: &'a Ids,
    claimed: BTreeSet<&'a str>,
    named: Vec<MappedShard>,
}

impl Naming<'_> {
    /// Gives the shard the name of a known one, if the rule finds it.
    fn claim(&mut self, shard: &ShardView, rule: Rule) -> bool {
        let id = self.ids.get(&shard.master.id);
        let found = self
            .known
            .iter()
            .find(|known| !self.claimed.contains(known.name.as_str()) && rule(shard, known, id));
        let Some(known) = found else {
            return false;
        };
        self.claimed.insert(&known.name);
        let id = known.id.clone().or_else(|| id.cloned());
        self.named.push(mapped(shard, known.name.clone(), id));
        true
    }

    fn begin(&mut self, shard: &ShardView) {
        let id = self.ids.get(&shard.master.id).cloned();
        let wanted = id.as_ref().unwrap_or(&shard.master.id);
        // A node that was master before may have gave its id to a shard that it has left since.
        let is_taken = |name: &str| {
            self.known.iter().any(|known| known.name == name)
                || self.named.iter().any(|named| named.name == name)
        };
        let mut name = wanted.clone();
        let mut number = 1u64;
        while is_taken(&name) {
            number = number.saturating_add(1);
            name = format!("{wanted}-{number}");
        }
        self.named.push(mapped(shard, name, id));
    }
}

fn mapped(shard: &ShardView, name: String, id: Option<String>) -> MappedShard {
    let mut nodes: Vec<MappedNode> = shard
        .nodes()
        .map(|node| MappedNode {
            id: node.id.clone(),
            addr: node.addr(),
        })
        .collect();
    nodes.sort_by(|one, other| one.id.cmp(&other.id));
    MappedShard {
        name,
        id,
        master: shard.master.id.clone(),
        nodes,
        slots: shard.slots.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::archive::FORMAT;
    use crate::link::cluster::Node;

    fn node(id: &str) -> Node {
        Node {
            id: id.trim_start_matches('!').to_owned(),
            host: "h".to_owned(),
            port: 1,
            fails: id.starts_with('!'),
        }
    }

    /// Master, replicas, slots. `!` before a node: it fails.
    type Of<'a> = (&'a str, &'a [&'a str], &'a [(u16, u16)]);

    fn view(shards: &[Of<'_>]) -> View {
        let shards = shards.iter().map(|(master, replicas, slots)| ShardView {
            master: node(master),
            replicas: replicas.iter().map(|id| node(id)).collect(),
            slots: slots.to_vec(),
        });
        View {
            shards: shards.collect(),
            epoch: 1,
            by: "h:1".to_owned(),
        }
    }

    fn map(shards: Vec<MappedShard>) -> SlotMap {
        SlotMap {
            format: FORMAT,
            number: 1,
            seen_unix_ms: 1,
            before_unix_ms: None,
            epoch: 1,
            writer: String::new(),
            shards,
        }
    }

    fn first() -> SlotMap {
        let view = view(&[("a", &["a2"], &[(0, 9)]), ("b", &["b2"], &[(10, 19)])]);
        map(named(&view, None, &Ids::new(), |_| false))
    }

    fn names(view: &View, before: &SlotMap, ids: &[(&str, &str)]) -> Vec<String> {
        let ids = ids
            .iter()
            .map(|(master, id)| ((*master).to_owned(), (*id).to_owned()));
        let named = named(view, Some(before), &ids.collect(), |_| false);
        named
            .iter()
            .map(|shard| format!("{}={} {shard}", shard.name, shard.master))
            .collect()
    }

    #[test]
    fn a_failover_changes_no_name() {
        // The old master is gone, is taken for dead, or is a replica by now.
        for shards in [
            &[("a2", &[][..], &[(0, 9)][..]), ("b", &["b2"], &[(10, 19)])][..],
            &[
                ("!a", &[], &[]),
                ("a2", &[], &[(0, 9)]),
                ("b", &["b2"], &[(10, 19)]),
            ],
            &[
                ("a", &[], &[]),
                ("a2", &[], &[(0, 9)]),
                ("b", &["b2"], &[(10, 19)]),
            ],
            &[("a2", &["a"], &[(0, 9)]), ("b", &["b2"], &[(10, 19)])],
        ] {
            let view = view(shards);
            assert_eq!(names(&view, &first(), &[]), ["a=a2 0-9", "b=b 10-19"]);
            let asked: Vec<_> = to_ask(&view, Some(&first()))
                .map(|it| it.master.id.clone())
                .collect();
            assert!(asked.contains(&"a2".to_owned()) && !asked.contains(&"b".to_owned()));
        }
    }

    #[test]
    fn slots_that_move_change_no_name_and_a_new_master_with_slots_is_a_new_shard() {
        let moved = view(&[
            ("a", &["a2"], &[(0, 4)]),
            ("b", &["b2"], &[(10, 19)]),
            ("c", &[], &[(5, 9)]),
        ]);
        assert_eq!(
            names(&moved, &first(), &[]),
            ["a=a 0-4", "b=b 10-19", "c=c 5-9"]
        );
        let all = view(&[("a", &["a2"], &[]), ("b", &["b2"], &[(0, 19)])]);
        assert_eq!(names(&all, &first(), &[]), ["a=a no slots", "b=b 0-19"]);
        // Its last master has become a replica of the other one: it ends.
        let ended = view(&[("b", &["a", "a2", "b2"], &[(0, 19)])]);
        assert_eq!(names(&ended, &first(), &[]), ["b=b 0-19"]);
    }

    #[test]
    fn a_replica_that_has_moved_to_another_shard_is_told_by_the_servers_name() {
        let mut before = first();
        before.shards[0].id = Some("x".to_owned());
        before.shards[1].id = Some("y".to_owned());
        // Both masters are gone, and a2 had become a replica of b before.
        let after = view(&[("a2", &[], &[(10, 19)]), ("a3", &[], &[(0, 9)])]);
        let told = [("a2", "y"), ("a3", "x")];
        assert_eq!(names(&after, &before, &told), ["a=a3 0-9", "b=a2 10-19"]);
        // A name that the servers give to a shard that nobody knew.
        let new = view(&[("n", &[], &[(0, 9)])]);
        assert_eq!(names(&new, &before, &[("n", "z")]), ["z=n 0-9"]);
    }

    #[test]
    fn a_name_is_never_given_twice() {
        // The master that gave its id to a shard has left it, and begins one of its own.
        let before = map(named(
            &view(&[("a2", &[], &[(0, 9)])]),
            Some(&first()),
            &Ids::new(),
            |_| false,
        ));
        assert_eq!(before.shards[0].name, "a");
        let both = view(&[("a2", &[], &[(0, 4)]), ("a", &[], &[(5, 9)])]);
        assert_eq!(names(&both, &before, &[]), ["a=a2 0-4", "a-2=a 5-9"]);
    }

    #[test]
    fn a_shard_without_slots_begins_only_if_it_may_and_is_no_old_master() {
        let view = view(&[
            ("a2", &[], &[(0, 9)]),
            ("a", &[], &[]),
            ("n", &[], &[]),
            ("!m", &[], &[]),
        ]);
        let of = |may: bool| {
            let named = named(&view, Some(&first()), &Ids::new(), |_| may);
            named
                .into_iter()
                .map(|shard| shard.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(false), ["a"]);
        assert_eq!(of(true), ["a", "n"]);
    }
}

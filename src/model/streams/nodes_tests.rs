#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use proptest::prelude::*;

use super::*;
use crate::model::Blob;

impl Entries {
    /// The ids of all entries.
    pub(in crate::model::streams) fn ids(&self) -> Vec<Id> {
        let live = |(master, node): (&Id, &Node)| {
            let places = node.places(*master).filter(|place| !place.deleted);
            places.map(|place| place.id).collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(live).collect()
    }

    /// How many entries each node has, and how many deleted ones.
    fn shape(&self) -> Vec<(usize, usize)> {
        self.nodes
            .values()
            .map(|node| (node.live, node.deleted))
            .collect()
    }

    /// The fields of an entry.
    fn fields(&self, id: Id) -> Option<Vec<(Blob, Blob)>> {
        let (master, node) = self.nodes.range(..=id).next_back()?;
        let place = node.find(*master, id)?;
        let mut input = Cursor::new(&node.body);
        let names = count(&mut input).unwrap();
        let names: Vec<Blob> = (0..names)
            .map(|_| element(&mut input).unwrap().to_bytes())
            .collect();
        let mut input = Cursor::new(&node.body[place.flags..]);
        let flags = element(&mut input).unwrap().to_i64().unwrap();
        element(&mut input).unwrap();
        element(&mut input).unwrap();
        let mut next = || element(&mut input).unwrap().to_bytes();
        Some(if flags & i64::from(SAME_FIELDS) == 0 {
            let count: usize = std::str::from_utf8(&next()).unwrap().parse().unwrap();
            (0..count).map(|_| (next(), next())).collect()
        } else {
            names.into_iter().map(|name| (name, next())).collect()
        })
    }

    fn rewritten(&self) -> Self {
        let mut out = Vec::new();
        self.encode(&mut out);
        let mut input = Cursor::new(&out);
        let again = Self::decode(&mut input).unwrap();
        input.finish().unwrap();
        assert_eq!(again.ids(), self.ids());
        assert_eq!(again.shape(), self.shape());
        assert_eq!(again.weight, self.weight);
        let mut second = Vec::new();
        again.encode(&mut second);
        assert_eq!(out, second);
        again
    }
}

fn id(ms: u64) -> Id {
    Id { ms, seq: 0 }
}

fn of(count: u64) -> Entries {
    let mut entries = Entries::default();
    for ms in 1..=count {
        entries.append(id(ms), &[(b"field", b"value")]);
    }
    entries
}

fn all(_: Id) -> bool {
    true
}

#[test]
fn nodes_are_filled_as_servers_fill_them() {
    let entries = of(250);
    assert_eq!(entries.shape(), [(100, 0), (100, 0), (50, 0)]);

    let mut entries = Entries::default();
    let long = [7u8; 2000];
    for ms in 1..=5 {
        entries.append(id(ms), &[(b"f", &long)]);
    }
    // The third would make the node 4096 bytes long or longer.
    assert_eq!(entries.shape(), [(2, 0), (2, 0), (1, 0)]);
    entries.append(id(6), &[(b"f", &[7; 10_000])]);
    entries.append(id(7), &[(b"f", b"")]);
    assert_eq!(entries.shape(), [(2, 0), (2, 0), (1, 0), (1, 0), (1, 0)]);
    assert_eq!(entries.fields(id(6)).unwrap()[0].1.len(), 10_000);
    entries.rewritten();
}

#[test]
fn fields_are_kept_whether_or_not_they_are_the_nodes() {
    let mut entries = Entries::default();
    let all: [&[Field]; 6] = [
        &[(b"a", b"1"), (b"2", b"")],
        &[(b"a", b"-0"), (b"2", b"9223372036854775807")],
        &[(b"2", b"x"), (b"a", b"y")],
        &[(b"a", b"1")],
        &[(b"a", b"1"), (b"02", b"")],
        &[(b"a", b"\xFF\x00"), (b"2", b"z")],
    ];
    for (ms, fields) in (1..).zip(all) {
        entries.append(id(ms), fields);
    }
    for entries in [entries.clone(), entries.rewritten()] {
        for (ms, fields) in (1..).zip(all) {
            let found = entries.fields(id(ms)).unwrap();
            let found: Vec<Field> = found
                .iter()
                .map(|(field, value)| (&**field, &**value))
                .collect();
            assert_eq!(found, fields);
        }
    }
}

#[test]
fn deleting_leaves_nodes_with_holes_and_takes_empty_ones_away() {
    let mut entries = of(250);
    assert!(entries.delete(id(1)) && entries.delete(id(150)));
    assert!(!entries.delete(id(1)) && !entries.delete(id(251)) && !entries.delete(Id::MIN));
    assert!(
        !entries.contains(id(1))
            && entries.contains(id(2))
            && !entries.contains(Id { ms: 2, seq: 1 })
    );
    assert_eq!(
        (entries.len(), entries.first(), entries.last()),
        (248, Some(id(2)), Some(id(250)))
    );
    for ms in 201..=250 {
        assert!(entries.delete(id(ms)));
    }
    assert_eq!(entries.shape(), [(99, 1), (99, 1)]);
    assert_eq!(entries.last(), Some(id(200)));
    entries.rewritten();
    for ms in 1..=200 {
        entries.delete(id(ms));
    }
    assert_eq!(
        (entries.len(), entries.first(), entries.last()),
        (0, None, None)
    );
    assert_eq!((entries.shape().len(), entries.weight()), (0, 0));
    entries.rewritten();
}

#[test]
fn trimming_goes_from_the_first_entry_on() {
    let mut entries = of(250);
    assert!(!entries.trim(Bound::Length(250), true, &mut all));
    assert!(!entries.reach_beyond(Bound::Length(250)) && entries.reach_beyond(Bound::Length(249)));
    assert!(entries.trim(Bound::Length(130), true, &mut all));
    assert_eq!(entries.shape(), [(80, 20), (50, 0)]);
    assert_eq!(entries.first(), Some(id(121)));
    assert!(
        !entries.reach_beyond(Bound::Before(id(121)))
            && entries.reach_beyond(Bound::Before(id(122)))
    );
    assert!(!entries.trim(Bound::Before(id(121)), true, &mut all));
    assert!(entries.trim(Bound::Before(id(201)), true, &mut all));
    assert_eq!(entries.shape(), [(50, 0)]);
    assert!(entries.trim(Bound::Length(0), true, &mut all));
    assert_eq!(entries.shape(), []);

    // A node of which deleted entries alone are left stays until it lies before the bound.
    let mut entries = of(3);
    entries.delete(id(3));
    assert!(entries.trim(Bound::Before(id(3)), true, &mut all));
    assert_eq!(entries.shape(), [(0, 3)]);
    assert_eq!((entries.len(), entries.first()), (0, None));
    let mut entries = entries.rewritten();
    entries.append(id(4), &[(b"f", b"v")]);
    assert_eq!(
        (entries.first(), entries.shape()),
        (Some(id(4)), vec![(1, 3)])
    );
}

#[test]
fn entries_that_may_not_go_stay() {
    let even = &mut |id: Id| id.ms.is_multiple_of(2);
    let mut entries = of(250);
    // The first node is tried, as it could go as a whole; then the second one, and no further.
    assert!(entries.trim(Bound::Length(120), false, even));
    assert_eq!(entries.shape(), [(50, 50), (50, 50), (50, 0)]);
    assert!(!entries.trim(Bound::Length(120), false, even));
    let mut entries = of(250);
    assert!(entries.trim(Bound::Before(id(150)), false, even));
    assert_eq!(entries.shape(), [(50, 50), (76, 24), (50, 0)]);
    // All may go: whole nodes do.
    assert!(entries.trim(Bound::Length(60), false, &mut all));
    assert_eq!(entries.shape(), [(10, 90), (50, 0)]);
}

#[test]
fn a_damaged_node_is_told() {
    let good = {
        let mut out = Vec::new();
        of(2).encode(&mut out);
        out
    };
    let told = |at: usize, byte: u8| {
        let mut bad = good.clone();
        assert_ne!(bad[at], byte);
        bad[at] = byte;
        Entries::decode(&mut Cursor::new(&bad)).unwrap_err()
    };
    // 01 10 <id> <length> <u32 length> <u16 elements> 02 00 01 "field" 00 | 02 00 00 "value" 04 | …
    let node = 19;
    let flags = node + 6 + 4 + 2 + 7 + 2;
    assert_eq!(good[flags], SAME_FIELDS);
    told(node, good[node] + 1);
    told(node + 4, 99);
    told(node + 6, 1);
    told(node + 8, 1);
    told(flags - 2, 1);
    told(flags, 4);
    told(flags, DELETED | SAME_FIELDS);
    told(flags, 0);
    told(flags + 2, 1); // the first id is as great as the second
    told(flags + 6 + 7, 5);
    told(good.len() - 2, 0);
    // Servers go by the number that it says, and so do we.
    let mut other = good.clone();
    *other.last_mut().unwrap() = 3;
    assert_eq!(Entries::decode(&mut Cursor::new(&other)).unwrap().len(), 3);
}

proptest! {
    /// Against the plainest model of a stream.
    #[test]
    fn entries_behave_as_a_sorted_map(steps in proptest::collection::vec((0..6u8, any::<u16>()), 0..400)) {
        let mut entries = Entries::default();
        let mut model = std::collections::BTreeMap::new();
        let mut last = 0;
        for (step, number) in steps {
            match step {
                0..=2 => {
                    last += u64::from(number % 3) + 1;
                    let value = vec![b'v'; usize::from(number % 700)];
                    let name: &[u8] = if number % 5 == 0 { b"other" } else { b"f" };
                    entries.append(id(last), &[(name, &value)]);
                    model.insert(id(last), vec![(Blob::from(name), Blob::from(value))]);
                }
                3 => {
                    let gone = id(u64::from(number) % (last + 2));
                    prop_assert_eq!(entries.delete(gone), model.remove(&gone).is_some());
                }
                4 if number % 8 == 0 => {
                    let length = model.len() / 2;
                    entries.trim(Bound::Length(length as u64), true, &mut all);
                    while model.len() > length { model.pop_first(); }
                }
                5 if number % 8 == 0 => {
                    let bound = id(u64::from(number) % (last + 2));
                    entries.trim(Bound::Before(bound), true, &mut all);
                    model = model.split_off(&bound);
                }
                _ => entries = entries.rewritten(),
            }
            prop_assert_eq!(entries.len(), model.len() as u64);
            prop_assert_eq!(entries.first(), model.keys().next().copied());
            prop_assert_eq!(entries.last(), model.keys().next_back().copied());
        }
        for (id, fields) in &model {
            prop_assert_eq!(&entries.fields(*id).unwrap(), fields);
        }
        prop_assert_eq!(entries.ids(), model.into_keys().collect::<Vec<_>>());
    }
}

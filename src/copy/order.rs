//! In which order histories are copied: each after those that it comes after. So the log that a history continues from is there
//! before it, and what the target holds at any moment is what the source once held.

use std::collections::{BTreeMap, BTreeSet};

use crate::archive::HistoryDoc;
use crate::wire::position::ReplId;

/// The ids of these, in that order; the older one first, where that leaves a choice.
pub(super) fn in_order(docs: &BTreeMap<ReplId, HistoryDoc>) -> Vec<ReplId> {
    let mut waits: BTreeMap<ReplId, BTreeSet<ReplId>> = BTreeMap::new();
    let mut next: BTreeMap<ReplId, Vec<ReplId>> = BTreeMap::new();
    let key = |doc: &HistoryDoc| (doc.created_unix_ms, doc.id);
    let mut ready = BTreeSet::new();
    for doc in docs.values() {
        let before = doc.before();
        let before: BTreeSet<ReplId> = before
            .filter(|id| *id != doc.id && docs.contains_key(id))
            .collect();
        for id in &before {
            next.entry(*id).or_default().push(doc.id);
        }
        if before.is_empty() {
            ready.insert(key(doc));
        }
        waits.insert(doc.id, before);
    }
    let mut order = Vec::with_capacity(docs.len());
    loop {
        let Some((_, id)) = ready.pop_first() else {
            // They name each other: no order is right. The oldest goes first.
            let left = waits.iter().filter(|(_, before)| !before.is_empty());
            let left = left.filter_map(|(id, _)| docs.get(id).map(key)).min();
            let Some((created, id)) = left else {
                return order;
            };
            if let Some(before) = waits.get_mut(&id) {
                before.clear();
            }
            ready.insert((created, id));
            continue;
        };
        order.push(id);
        for after in next.remove(&id).unwrap_or_default() {
            let Some(before) = waits.get_mut(&after) else {
                continue;
            };
            if before.remove(&id)
                && before.is_empty()
                && let Some(doc) = docs.get(&after)
            {
                ready.insert(key(doc));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::{Parent, ServerInfo};
    use crate::wire::position::{Offset, Position};

    fn id(number: u8) -> ReplId {
        ReplId::from_random([number; 20])
    }

    fn doc(number: u8, created_unix_ms: i64, parent: Option<u8>, previous: &[u8]) -> HistoryDoc {
        let at = |number: &u8| Position {
            history: id(*number),
            offset: Offset(1),
        };
        let mut doc = HistoryDoc {
            format: 1,
            id: id(number),
            replid: None,
            parent: parent.map(|number| Parent {
                history: id(number),
                offset: Offset(1),
                db: 0,
            }),
            previous: None,
            also_previous: Vec::new(),
            service: "x".to_owned(),
            server: ServerInfo::default(),
            run_id: None,
            created_unix_ms,
        };
        for previous in previous {
            doc.comes_after(at(previous));
        }
        doc
    }

    fn order(docs: Vec<HistoryDoc>) -> Vec<ReplId> {
        in_order(&docs.into_iter().map(|doc| (doc.id, doc)).collect())
    }

    #[test]
    fn each_comes_after_those_that_it_comes_after() {
        // A clock that went back, and a parent that is not there.
        let docs = vec![
            doc(1, 50, None, &[]),
            doc(2, 40, Some(1), &[]),
            doc(3, 30, None, &[2, 5]),
            doc(4, 99, Some(9), &[]),
            doc(5, 60, None, &[]),
        ];
        assert_eq!(order(docs), [1, 2, 5, 3, 4].map(id));
    }

    #[test]
    fn those_that_name_each_other_are_all_copied() {
        let docs = vec![
            doc(1, 10, Some(2), &[]),
            doc(2, 20, Some(1), &[]),
            doc(3, 5, Some(2), &[]),
            doc(4, 30, Some(4), &[]),
        ];
        let order = order(docs);
        assert_eq!(order.len(), 4, "{order:?}");
        let all: BTreeSet<ReplId> = order.into_iter().collect();
        assert_eq!(all, [1, 2, 3, 4].map(id).into());
    }
}

//! What really happened: every byte of every history, and the data set between any two commands.

use std::collections::BTreeMap;

use super::model::Model;
use crate::wire::position::{Boundary, Offset, ReplId};
use crate::wire::resp::FeedScanner;

/// A history as its servers know it.
struct History {
    parent: Option<ReplId>,
    /// The last byte that it shares with its parent.
    start: u64,
    bytes: Vec<u8>,
    /// The data set at each boundary.
    states: BTreeMap<u64, Model>,
    /// When the bytes before each boundary were written, Unix milliseconds.
    written: BTreeMap<u64, i64>,
}

/// All that happened.
#[derive(Default)]
pub(crate) struct Truth {
    histories: BTreeMap<ReplId, History>,
}

impl Truth {
    /// A server begins a history, perhaps where it leaves another one.
    pub(crate) fn begin(&mut self, id: ReplId, parent: Option<ReplId>, start: u64, model: Model) {
        let history = History {
            parent,
            start,
            bytes: Vec::new(),
            states: BTreeMap::from([(start, model)]),
            written: BTreeMap::new(),
        };
        self.histories.insert(id, history);
    }

    /// Bytes of the feed. `state`: they end at a boundary, with this data set.
    pub(crate) fn write(&mut self, id: ReplId, bytes: &[u8], state: Option<&Model>, now_ms: i64) {
        let history = self.histories.get_mut(&id).unwrap();
        history.bytes.extend_from_slice(bytes);
        let end = history.start + history.bytes.len() as u64;
        if let Some(state) = state {
            history.states.insert(end, state.clone());
            history.written.insert(end, now_ms);
        }
    }

    /// The bytes `(from, to]`.
    pub(crate) fn bytes(&self, id: ReplId, from: u64, to: u64) -> Option<Vec<u8>> {
        let history = self.histories.get(&id)?;
        if from >= to {
            return Some(Vec::new());
        }
        let mut bytes = Vec::new();
        if from < history.start {
            bytes = self.bytes(history.parent?, from, to.min(history.start))?;
        }
        if to > history.start {
            let first = from.max(history.start) - history.start;
            let own = history
                .bytes
                .get(first as usize..(to - history.start) as usize)?;
            bytes.extend_from_slice(own);
        }
        Some(bytes)
    }

    /// Is all of the feed after the boundary `from`, up to the command that holds byte `to`, traffic of an idle server?
    pub(crate) fn is_idle(&self, id: ReplId, from: u64, to: u64) -> bool {
        let Some(history) = self.histories.get(&id) else {
            return false;
        };
        let end = history.start + history.bytes.len() as u64;
        let Some(bytes) = self.bytes(id, from, end).filter(|_| to <= end) else {
            return false;
        };
        let boundary = Boundary {
            offset: Offset(from),
            db: 0,
        };
        let mut idle = true;
        let scanned = FeedScanner::new(boundary).scan(&bytes, |command| {
            idle &= command.start.0 >= to || (command.is_idle() && command.at_boundary);
        });
        idle && scanned.is_ok()
    }

    /// All that there are.
    pub(crate) fn all(&self) -> impl Iterator<Item = ReplId> + '_ {
        self.histories.keys().copied()
    }

    /// A history, and all that it goes on from.
    pub(crate) fn line_of(&self, id: ReplId) -> impl Iterator<Item = ReplId> + '_ {
        let parent = |id: &ReplId| self.histories.get(id).and_then(|history| history.parent);
        std::iter::successors(Some(id), parent)
    }

    /// The first of those that a history goes on from.
    pub(crate) fn root(&self, id: ReplId) -> ReplId {
        let mut root = id;
        while let Some(parent) = self.histories.get(&root).and_then(|history| history.parent) {
            root = parent;
        }
        root
    }

    /// Where a history begins, and what it goes on from.
    pub(crate) fn origin(&self, id: ReplId) -> Option<(u64, Option<ReplId>)> {
        let history = self.histories.get(&id)?;
        Some((history.start, history.parent))
    }

    /// Is what happened up to an offset, as far as its bytes tell, the same in `one` as in `other`, which goes on from it?
    pub(crate) fn is_same(&self, one: ReplId, other: ReplId, offset: u64) -> bool {
        let Some((began, Some(_))) = self.origin(other) else {
            return false;
        };
        let of_one = self.bytes(one, began, offset);
        let shares = |line| self.state(line, began).is_some();
        shares(one) && of_one.is_some() && of_one == self.bytes(other, began, offset)
    }

    /// The data set at a boundary; none: it is none.
    pub(crate) fn state(&self, id: ReplId, at: u64) -> Option<&Model> {
        let history = self.histories.get(&id)?;
        if at < history.start {
            return self.state(history.parent?, at);
        }
        history.states.get(&at)
    }

    /// Was nothing ever there, up to an offset?
    pub(crate) fn begins_empty(&self, id: ReplId, upto: u64) -> bool {
        self.line_of(id).all(|line| {
            let states = self.histories.get(&line).map(|history| &history.states);
            let mut upto = states.into_iter().flat_map(|states| states.range(..=upto));
            upto.all(|(_, state)| state.keys() == 0)
        })
    }

    /// When the last of the bytes up to an offset was first written; none: before anything. A server that was set back
    /// may write the same once more.
    pub(crate) fn written(&self, id: ReplId, upto: u64) -> Option<i64> {
        let history = self.histories.get(&id)?;
        let own = history.written.range(..=upto).next_back();
        match own {
            Some((_, at)) => {
                let parent = history.parent.filter(|it| self.is_same(*it, id, upto));
                let before = parent.and_then(|parent| self.written(parent, upto));
                Some(before.map_or(*at, |before| before.min(*at)))
            }
            None => self.written(history.parent?, upto.min(history.start)),
        }
    }

    /// The data set at the last boundary at or before an offset.
    pub(crate) fn state_upto(&self, id: ReplId, upto: u64) -> Option<&Model> {
        self.state(id, self.boundary(id, upto)?)
    }

    /// The last boundary at or before an offset.
    pub(crate) fn boundary(&self, id: ReplId, upto: u64) -> Option<u64> {
        let history = self.histories.get(&id)?;
        if upto < history.start {
            return self.boundary(history.parent?, upto);
        }
        history.states.range(..=upto).next_back().map(|(at, _)| *at)
    }
}

//! Which keys of which shard make the cluster at one instant.
//!
//! The slot map of that instant says who has a slot. Around a move of a slot this is not enough. Before the map shows the
//! move, keys are on their way: some are with the old owner, some with the new one. And the map is looked at once a second,
//! so it changes a little later than the cluster.

use crate::archive::{ArchiveError, ClusterPlace, SlotMap};
use crate::rebuild::SlotSet;
use crate::wire::SLOTS;

/// A slot that is on its way at an instant has its next owner in one of so many maps after that.
const LATER_MAPS: u64 = 64;
/// And within this time.
const LATER_MS: i64 = 3_600_000;

/// The slot map of an instant, and what came after it.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) map: SlotMap,
    /// The maps after it, as far as they matter, in order.
    later: Vec<SlotMap>,
    /// They are all that there are.
    is_end: bool,
    /// The instant lies between the last sight of `map` and the first one of the next map. None: of the latest map.
    in_doubt: bool,
}

/// What is taken of a shard.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    /// All keys of these slots: it has them.
    pub(super) owned: SlotSet,
    /// Keys of these slots that their owner lacks: they may be on their way.
    pub(super) moving: SlotSet,
}

impl Taken {
    /// All of them.
    pub(super) fn all(&self) -> SlotSet {
        let mut all = self.owned.clone();
        all.add_all(&self.moving);
        all
    }
}

impl Moment {
    /// None: the first map is later.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub(super) async fn at(
        place: &ClusterPlace,
        unix_ms: i64,
    ) -> Result<Option<Self>, ArchiveError> {
        let Some((map, next)) = place.at(unix_ms).await? else {
            return Ok(None);
        };
        let in_doubt = next
            .as_ref()
            .is_some_and(|next| next.before_unix_ms.is_none_or(|before| before < unix_ms));
        let (mut later, mut is_end) = (Vec::new(), false);
        let mut next = next;
        for number in 1..=LATER_MAPS {
            let Some(found) = next else {
                is_end = true;
                break;
            };
            if found.seen_unix_ms > unix_ms.saturating_add(LATER_MS) {
                break;
            }
            next = place.map(found.number.saturating_add(1)).await?;
            later.push(found);
            is_end = number < LATER_MAPS && next.is_none();
        }
        Ok(Some(Self {
            map,
            later,
            is_end,
            in_doubt,
        }))
    }

    /// The last that is known.
    pub(super) fn latest(map: SlotMap) -> Self {
        Self {
            map,
            later: Vec::new(),
            is_end: true,
            in_doubt: false,
        }
    }

    /// The first map after it, if it is not known which of the two was in force.
    fn doubtful(&self) -> Option<&SlotMap> {
        self.later.first().filter(|_| self.in_doubt)
    }

    /// The names of all shards that may have keys of that instant.
    pub(super) fn shards(&self) -> Vec<String> {
        let maps = std::iter::once(&self.map).chain(&self.later);
        let mut names: Vec<String> = maps
            .flat_map(|map| map.shards.iter().map(|shard| shard.name.clone()))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// What is to be taken of a shard.
    pub(super) fn taken(&self, shard: &str) -> Taken {
        let of_map = owners(&self.map);
        let later: Vec<_> = self.later.iter().map(owners).collect();
        let doubtful = self.doubtful().and(later.first());
        let mut taken = Taken::default();
        for slot in 0..SLOTS {
            let before = owner(&of_map, slot);
            // If it is not known which map was in force, the new owner has what the old one may have kept.
            let has = doubtful.and_then(|next| owner(next, slot)).or(before);
            if has == Some(shard) {
                taken.owned.add(slot);
                continue;
            }
            let was = doubtful.is_some() && before == Some(shard);
            let mut next = later.iter().filter_map(|map| owner(map, slot));
            let is_next = match next.find(|next| Some(*next) != has) {
                Some(next) => next == shard,
                // It may have been on its way to any, when the maps end.
                None => self.is_end,
            };
            if was || is_next {
                taken.moving.add(slot);
            }
        }
        taken
    }
}

fn owner<'a>(map: &[Option<&'a str>], slot: u16) -> Option<&'a str> {
    map.get(usize::from(slot)).copied().flatten()
}

/// The name of the shard that has each slot.
fn owners(map: &SlotMap) -> Vec<Option<&str>> {
    let mut owners = vec![None; usize::from(SLOTS)];
    for shard in &map.shards {
        for (first, last) in &shard.slots {
            let range = usize::from(*first)..=usize::from(*last);
            for owner in owners.get_mut(range).into_iter().flatten() {
                *owner = Some(shard.name.as_str());
            }
        }
    }
    owners
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::archive::{FORMAT, MappedShard};
    use crate::store::MemoryStore;

    fn map(
        number: u64,
        seen: i64,
        before: Option<i64>,
        shards: &[(&str, &[(u16, u16)])],
    ) -> SlotMap {
        let shards = shards.iter().map(|(name, slots)| MappedShard {
            name: (*name).to_owned(),
            id: None,
            master: String::new(),
            nodes: Vec::new(),
            slots: slots.to_vec(),
        });
        SlotMap {
            format: FORMAT,
            number,
            seen_unix_ms: seen,
            before_unix_ms: before,
            epoch: number,
            writer: String::new(),
            shards: shards.collect(),
        }
    }

    async fn place() -> ClusterPlace {
        let place = ClusterPlace::open_or_create(MemoryStore::new().shared(), 0)
            .await
            .unwrap();
        for map in [
            map(1, 1000, None, &[("a", &[(0, 9)]), ("b", &[(10, 16_383)])]),
            // Slot 9 has gone to b, and later 8 to c, which is new.
            map(
                2,
                5000,
                Some(4000),
                &[("a", &[(0, 8)]), ("b", &[(9, 16_383)])],
            ),
            map(
                3,
                9000,
                Some(8000),
                &[("a", &[(0, 7)]), ("b", &[(9, 16_383)]), ("c", &[(8, 8)])],
            ),
        ] {
            assert!(place.append(&map).await.unwrap());
        }
        place
    }

    async fn taken(at: i64, shard: &str, slots: &[u16]) -> Vec<&'static str> {
        let moment = Moment::at(&place().await, at).await.unwrap().unwrap();
        let taken = moment.taken(shard);
        let of = |slot: &u16| match (taken.owned.has(*slot), taken.moving.has(*slot)) {
            (true, false) => "owned",
            (false, true) => "moving",
            (false, false) => "no",
            (true, true) => "both",
        };
        slots.iter().map(of).collect()
    }

    #[tokio::test]
    async fn the_next_owner_may_have_keys_that_are_on_their_way() {
        let slots = [7, 8, 9, 10];
        assert!(Moment::at(&place().await, 999).await.unwrap().is_none());
        // Before the move: b may have keys of 9 already, and c of 8.
        assert_eq!(
            taken(3000, "a", &slots).await,
            ["owned", "owned", "owned", "moving"]
        );
        assert_eq!(
            taken(3000, "b", &slots).await,
            ["moving", "no", "moving", "owned"]
        );
        assert_eq!(
            taken(3000, "c", &slots).await,
            ["moving", "moving", "no", "moving"]
        );
        // It is not known whether 9 is with a or with b.
        assert_eq!(
            taken(4500, "a", &slots).await,
            ["owned", "owned", "moving", "moving"]
        );
        assert_eq!(
            taken(4500, "b", &slots).await,
            ["moving", "no", "owned", "owned"]
        );
        // After it, nothing of 9 is taken from a unless the maps end.
        assert_eq!(
            taken(6000, "b", &slots).await,
            ["moving", "no", "owned", "owned"]
        );
        assert_eq!(
            taken(9000, "c", &slots).await,
            ["moving", "owned", "moving", "moving"]
        );
    }

    #[tokio::test]
    async fn what_moves_long_after_does_not_matter() {
        let place = place().await;
        let far = map(
            4,
            9000 + 2 * LATER_MS,
            Some(9000),
            &[("a", &[(0, 7)]), ("b", &[(10, 16_383)]), ("c", &[(8, 9)])],
        );
        assert!(place.append(&far).await.unwrap());
        let moment = Moment::at(&place, 8999).await.unwrap().unwrap();
        assert!(!moment.is_end);
        assert!(!moment.taken("c").moving.has(9));
        assert_eq!(moment.shards(), ["a", "b", "c"]);
    }
}

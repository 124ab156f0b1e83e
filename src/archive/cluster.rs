//! The place of a cluster: its slot maps, and an archive for each of its shards.
//!
//! ```text
//! cluster.json                   says that this is the place of a cluster, created once
//! map/<number:020>.json          a slot map, created once for each change
//! shards/<name>/…                the archive of a shard
//! ```
//!
//! The maps lie here and not in the archives: each is about all shards at once, and their numbers give the order on
//! which all writers agree.

use std::collections::BTreeSet;
use std::fmt;

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::{Archive, ArchiveError, FORMAT, documents};
use crate::runtime::buffers::Buffers;
use crate::store::{SharedStore, StoreError};

/// `cluster.json`.
const CLUSTER: &str = "cluster.json";
/// What the names of all slot maps begin with.
const MAPS: &str = "map/";
/// What `kind` says in `cluster.json`.
const KIND: &str = "backfeed cluster";

/// `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClusterDoc {
    format: u32,
    kind: String,
    created_unix_ms: i64,
}

/// `map/<number>.json`: who had which slots from a time on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMap {
    /// [`FORMAT`].
    pub format: u32,
    /// 1 for the first.
    pub number: u64,
    /// When it was seen first, Unix milliseconds. Never before that of the map before.
    pub seen_unix_ms: i64,
    /// When the map before was last seen. The change was after that. None: not since this writer began.
    pub before_unix_ms: Option<i64>,
    /// The highest configuration epoch of a master.
    pub epoch: u64,
    /// Who wrote it.
    pub writer: String,
    /// By their names.
    pub shards: Vec<MappedShard>,
}

/// A shard in a slot map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedShard {
    /// The name of its archive, which no failover changes.
    pub name: String,
    /// What the servers call it (`CLUSTER MYSHARDID`). None: they have no name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The id of its master.
    pub master: String,
    /// Its master and its replicas.
    pub nodes: Vec<MappedNode>,
    /// First and last slot of each range, in ascending order. In the document: `0-5460,5462`.
    #[serde(with = "ranges")]
    pub slots: Vec<(u16, u16)>,
}

/// A node in a slot map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedNode {
    /// Its id.
    pub id: String,
    /// `host:port`, as clients reach it.
    pub addr: String,
}

impl SlotMap {
    /// The shard of this name.
    #[must_use]
    pub fn shard(&self, name: &str) -> Option<&MappedShard> {
        self.shards.iter().find(|shard| shard.name == name)
    }

    /// The shard that has a slot.
    #[must_use]
    pub fn owner(&self, slot: u16) -> Option<&MappedShard> {
        self.shards.iter().find(|shard| shard.has(slot))
    }
}

impl MappedShard {
    /// Has it this slot?
    #[must_use]
    pub fn has(&self, slot: u16) -> bool {
        self.slots
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

/// The place of a cluster in a store.
#[derive(Debug, Clone)]
pub struct ClusterPlace {
    /// Only to read and to create documents.
    documents: Archive,
}

impl ClusterPlace {
    /// The place in `store`. None: it is none.
    ///
    /// # Errors
    /// [`ArchiveError`]: of the store, or `cluster.json` is not what it should be.
    pub async fn open(store: SharedStore) -> Result<Option<Self>, ArchiveError> {
        let place = Self::of(store);
        let Some(bytes) = place.documents.read_document(CLUSTER).await? else {
            return Ok(None);
        };
        let doc: ClusterDoc = documents::from_bytes(CLUSTER, &bytes)?;
        match doc.kind == KIND {
            true => Ok(Some(place)),
            false => Err(ArchiveError::damaged(
                CLUSTER,
                format!("it says that it is `{}`", doc.kind),
            )),
        }
    }

    /// The place in `store`, which is made if the store is empty.
    ///
    /// # Errors
    /// [`ArchiveError::NotAnArchive`]: something else is there.
    pub async fn open_or_create(
        store: SharedStore,
        now_unix_ms: i64,
    ) -> Result<Self, ArchiveError> {
        if let Some(place) = Self::open(store.clone()).await? {
            return Ok(place);
        }
        let place = Self::of(store.clone());
        if let Some(object) = store.list("", None).await.try_next().await?
            && object.name != CLUSTER
        {
            return Err(ArchiveError::NotAnArchive {
                url: store.url(),
                reason: format!(
                    "it holds {}, and no cluster.json. A cluster needs an empty place of its own",
                    object.name
                ),
            });
        }
        let doc = ClusterDoc {
            format: FORMAT,
            kind: KIND.to_owned(),
            created_unix_ms: now_unix_ms,
        };
        let body = documents::to_bytes(CLUSTER, &doc)?;
        place.documents.create_unless_there(CLUSTER, body).await?;
        Self::open(store).await?.ok_or(ArchiveError::Missing {
            object: CLUSTER.to_owned(),
        })
    }

    fn of(store: SharedStore) -> Self {
        Self {
            documents: Archive {
                store,
                buffers: Buffers::default(),
                kept: None,
                strict: false,
            },
        }
    }

    /// The store, for messages to an operator.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.documents.store
    }

    /// How many slot maps there are.
    ///
    /// # Errors
    /// [`ArchiveError`]: of the store; or one is missing among them.
    pub async fn count(&self) -> Result<u64, ArchiveError> {
        let mut listed = self.store().list(MAPS, None).await;
        let mut count = 0;
        while let Some(object) = listed.try_next().await? {
            let Some(number) = number_of(&object.name) else {
                continue;
            };
            count = next(count);
            if number != count {
                return Err(ArchiveError::Missing {
                    object: name_of(count),
                });
            }
        }
        Ok(count)
    }

    /// A slot map. None: there is none of this number.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn map(&self, number: u64) -> Result<Option<SlotMap>, ArchiveError> {
        let object = name_of(number);
        let Some(bytes) = self.documents.read_document(&object).await? else {
            return Ok(None);
        };
        let map: SlotMap = documents::from_bytes(&object, &bytes)?;
        if map.number != number {
            return Err(ArchiveError::Renamed {
                object,
                says: name_of(map.number),
            });
        }
        check(&object, &map)?;
        Ok(Some(map))
    }

    /// The latest slot map. None: there is none yet.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn latest(&self) -> Result<Option<SlotMap>, ArchiveError> {
        match self.count().await? {
            0 => Ok(None),
            number => self.some(number).await.map(Some),
        }
    }

    /// The slot map that was in force at that time, and the one after it. None: the first is later.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn at(
        &self,
        unix_ms: i64,
    ) -> Result<Option<(SlotMap, Option<SlotMap>)>, ArchiveError> {
        // The maps up to `low` were seen by then, those from `high` on were not.
        let (mut low, mut high) = (0, next(self.count().await?));
        let last = high;
        while next(low) < high {
            let middle = low.midpoint(high);
            match self.some(middle).await?.seen_unix_ms <= unix_ms {
                true => low = middle,
                false => high = middle,
            }
        }
        if low == 0 {
            return Ok(None);
        }
        let after = match high < last {
            true => Some(self.some(high).await?),
            false => None,
        };
        Ok(Some((self.some(low).await?, after)))
    }

    async fn some(&self, number: u64) -> Result<SlotMap, ArchiveError> {
        let map = self.map(number).await?;
        map.ok_or_else(|| ArchiveError::Missing {
            object: name_of(number),
        })
    }

    /// Stores a map as the next one after `after`. False: another writer was faster.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn append(&self, map: &SlotMap) -> Result<bool, ArchiveError> {
        let object = name_of(map.number);
        check(&object, map)?;
        let body = documents::to_bytes(&object, map)?;
        match self.store().create(&object, body).await {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The URL of the archive of a shard.
#[must_use]
pub fn shard_url(place: &str, shard: &str) -> String {
    format!("{}/shards/{shard}", place.trim_end_matches('/'))
}

/// Is the store the place of a cluster, as far as the name of an object in it tells?
pub(super) fn is_of_cluster(object: &str) -> bool {
    object == CLUSTER
}

/// A slot has one owner, and names lead nowhere else.
fn check(object: &str, map: &SlotMap) -> Result<(), ArchiveError> {
    let wrong = |reason: String| Err(ArchiveError::damaged(object, reason));
    let mut names = BTreeSet::new();
    let mut ranges = Vec::new();
    for shard in &map.shards {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if shard.name.is_empty() || !shard.name.bytes().all(is_plain) {
            return wrong(format!("`{}` is no name of a shard", shard.name));
        }
        if !names.insert(&shard.name) {
            return wrong(format!("it has two shards named {}", shard.name));
        }
        ranges.extend_from_slice(&shard.slots);
    }
    ranges.sort_unstable();
    let mut free = 0;
    for (first, last) in ranges {
        if first < free || last < first || last >= crate::wire::SLOTS {
            return wrong(format!(
                "the slots {first}-{last} are not those of one shard"
            ));
        }
        free = last.saturating_add(1);
    }
    Ok(())
}

fn name_of(number: u64) -> String {
    format!("{MAPS}{number:020}.json")
}

fn number_of(object: &str) -> Option<u64> {
    let digits = object.strip_prefix(MAPS)?.strip_suffix(".json")?;
    let number = digits.parse().ok()?;
    (name_of(number) == object).then_some(number)
}

fn next(number: u64) -> u64 {
    number.saturating_add(1)
}

impl fmt::Display for MappedShard {
    /// Its slots: `0-5460,5462`, or `no slots`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slots.is_empty() {
            true => f.write_str("no slots"),
            false => f.write_str(&ranges::text(&self.slots)),
        }
    }
}

/// Ranges of slots as operators write them.
mod ranges {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn text(ranges: &[(u16, u16)]) -> String {
        let ranges = ranges.iter().map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        });
        ranges.collect::<Vec<_>>().join(",")
    }

    pub(super) fn serialize<S: Serializer>(
        ranges: &[(u16, u16)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(ranges))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(u16, u16)>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let ranges = text.split(',').filter(|range| !range.is_empty());
        let ranges = ranges.map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse().ok().zip(last.parse().ok())
        });
        let all: Option<Vec<(u16, u16)>> = ranges.collect();
        all.ok_or_else(|| D::Error::custom(format!("`{text}` are no slots")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::archive::testing::on_both_stores;

    on_both_stores!(maps_are_found_by_time, a_place_is_for_one_cluster);

    fn map(number: u64, seen_unix_ms: i64, slots: &[(&str, &[(u16, u16)])]) -> SlotMap {
        SlotMap {
            format: FORMAT,
            number,
            seen_unix_ms,
            before_unix_ms: None,
            epoch: number,
            writer: "test".to_owned(),
            shards: slots
                .iter()
                .map(|(name, slots)| MappedShard {
                    name: (*name).to_owned(),
                    id: None,
                    master: "m".to_owned(),
                    nodes: Vec::new(),
                    slots: slots.to_vec(),
                })
                .collect(),
        }
    }

    async fn maps_are_found_by_time(store: SharedStore) {
        let place = ClusterPlace::open_or_create(store.clone(), 0)
            .await
            .unwrap();
        assert_eq!(place.latest().await.unwrap(), None);
        assert_eq!(place.at(5).await.unwrap(), None);
        let all: Vec<SlotMap> = (1..=5)
            .map(|n| {
                map(
                    n,
                    i64::try_from(n).unwrap() * 100,
                    &[("a", &[(0, 9)]), ("b", &[(10, 10)])],
                )
            })
            .collect();
        for each in &all {
            assert!(place.append(each).await.unwrap());
            assert!(!place.append(each).await.unwrap(), "created once");
        }
        let place = ClusterPlace::open(store.clone()).await.unwrap().unwrap();
        assert_eq!(place.latest().await.unwrap().as_ref(), all.last());
        for (at, number, after) in [
            (100, 1, 2),
            (199, 1, 2),
            (200, 2, 3),
            (350, 3, 4),
            (500, 5, 0),
            (9999, 5, 0),
        ] {
            let (found, next) = place.at(at).await.unwrap().unwrap();
            assert_eq!(
                (found.number, next.map_or(0, |it| it.number)),
                (number, after),
                "{at}"
            );
        }
        assert_eq!(place.at(99).await.unwrap(), None);
        let first = all.first().unwrap();
        assert_eq!(first.owner(10).unwrap().name, "b");
        assert!(first.owner(11).is_none());
        assert_eq!(first.shard("a").unwrap().to_string(), "0-9");
        // One that is missing is an error, not the end.
        store.delete(&name_of(3)).await.unwrap();
        let error = place.latest().await.unwrap_err();
        assert!(matches!(error, ArchiveError::Missing { .. }), "{error}");
    }

    async fn a_place_is_for_one_cluster(store: SharedStore) {
        let archive = Archive::open_or_create(store.clone(), 0).await.unwrap();
        let error = ClusterPlace::open_or_create(store, 0).await.unwrap_err();
        assert!(error.to_string().contains("archive.json"), "{error}");
        assert!(
            ClusterPlace::open(archive.store().clone())
                .await
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test]
    async fn an_archive_is_not_looked_for_in_the_place_of_a_cluster() {
        let store = crate::store::MemoryStore::new().shared();
        ClusterPlace::open_or_create(store.clone(), 0)
            .await
            .unwrap();
        let error = Archive::open(store).await.unwrap_err().to_string();
        assert!(error.contains("shards/"), "{error}");
    }

    #[tokio::test]
    async fn a_map_in_which_a_slot_has_two_owners_is_damaged() {
        let store = crate::store::MemoryStore::new().shared();
        let place = ClusterPlace::open_or_create(store, 0).await.unwrap();
        for slots in [
            &[("a", &[(0_u16, 9_u16)][..]), ("b", &[(9, 10)])][..],
            &[("a", &[(0, 9)]), ("a", &[(10, 10)])],
            &[("a/b", &[(0, 9)])],
            &[("", &[(0, 9)])],
            &[("a", &[(5, 4)])],
            &[("a", &[(0, 16_384)])],
        ] {
            let error = place.append(&map(1, 1, slots)).await.unwrap_err();
            assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
        }
    }
}

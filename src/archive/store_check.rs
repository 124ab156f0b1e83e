//! Checks that a store does what the archive needs, before anything depends on it.

use bytes::Bytes;
use futures::TryStreamExt;

use super::{Archive, ArchiveError, Name};
use crate::store::{Listing, SharedStore, StoreError};

impl Archive {
    /// Opens the archive in `store`, or makes one if the store is empty, for a caller that will write. It proves that
    /// the store can be read, listed and written, and that it creates an object once.
    ///
    /// The probe is `archive.json` itself, so the check leaves nothing behind, however often it runs. The object is
    /// read, found in a listing, and created again. A store that creates once refuses that. A store that does not
    /// writes the same bytes over it. This does no harm, and is noticed. The check costs a listing and a create for
    /// each start.
    ///
    /// The create is refused *because the object exists*, and this also proves the permission to create. Google Cloud
    /// Storage needs `storage.objects.create` for each insert, and also `storage.objects.delete` when there is an
    /// object of that name (the IAM table of its JSON API). It says 403 to an account that lacks them. 412 is the
    /// answer to a request that is allowed, but whose precondition fails. An account without `storage.objects.delete`
    /// would get 403 here, and the error says so. It would get the same answer where another writer was faster, and could not
    /// find that out. On a file system, the temporary file to be linked has to be written first.
    ///
    /// # Errors
    /// As [`Self::open_or_create`], and [`ArchiveError::Unfit`].
    pub async fn open_to_write(store: SharedStore, now_unix_ms: i64) -> Result<Self, ArchiveError> {
        let (archive, body) = Self::open_or_create_read(store, now_unix_ms).await?;
        archive.probe(body).await?;
        Ok(archive)
    }

    /// The same for a copy of an archive, whose `archive.json` holds these bytes. An empty store gets that. Returns what the
    /// store's `archive.json` holds: the store is the copy of another archive if that is something else, and then it is not
    /// written to.
    ///
    /// # Errors
    /// As [`Self::open_to_write`].
    #[cfg(feature = "cli")]
    pub(crate) async fn open_copy(
        store: SharedStore,
        body: Bytes,
    ) -> Result<(Self, Bytes), ArchiveError> {
        let found = match Self::open_read(store.clone()).await {
            Err(ArchiveError::EmptyStore { .. }) => {
                let archive = Self::unopened(store.clone());
                let object = Name::Archive.to_string();
                archive.create_unless_there(&object, body.clone()).await?;
                Self::open_read(store).await?
            }
            other => other?,
        };
        if found.1 == body {
            found.0.probe(body).await?;
        }
        Ok(found)
    }

    /// `body`: what `archive.json` holds.
    async fn probe(&self, body: Bytes) -> Result<(), ArchiveError> {
        let object = Name::Archive.to_string();
        let one = Listing::of(&object).pages_of(1);
        let listed = self.store.list_with(one).await.try_next().await?;
        if listed.is_none_or(|found| found.name != object || found.size != body.len() as u64) {
            return Err(self.unfit(format!("its listing does not show {object} correctly")));
        }
        match self.store.create(&object, body.clone()).await {
            Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                return Err(self.unfit(format!(
                    "it let {object} be created a second time, so that two writers could overwrite each other"
                )));
            }
        }
        self.check_unchanged(&object, &body).await
    }

    async fn check_unchanged(&self, object: &str, before: &Bytes) -> Result<(), ArchiveError> {
        match self.read_document(object).await? {
            Some(after) if after == before => Ok(()),
            _ => Err(self.unfit(format!("{object} has other bytes than were written"))),
        }
    }

    fn unfit(&self, reason: String) -> ArchiveError {
        ArchiveError::Unfit {
            url: self.store.url(),
            reason,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ops::Range;

    use async_trait::async_trait;
    use futures::StreamExt;
    use futures::stream::{self, BoxStream};

    use super::*;
    use crate::archive::testing::on_both_stores;
    use crate::store::memory::{Call, Fault};
    use crate::store::{ByteStream, Created, MemoryStore, ObjectMeta, Store, Upload};

    const NOW: i64 = 1_700_000_000_000;

    on_both_stores!(a_fit_store_has_archive_json_alone_however_often_it_is_opened);

    async fn a_fit_store_has_archive_json_alone_however_often_it_is_opened(store: SharedStore) {
        for now in NOW..NOW + 3 {
            Archive::open_to_write(store.clone(), now).await.unwrap();
        }
        let all: Vec<ObjectMeta> = store.list("", None).await.try_collect().await.unwrap();
        let names: Vec<&str> = all.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(names, ["archive.json"]);
        Archive::open(store).await.unwrap();
    }

    #[tokio::test]
    async fn reading_an_archive_takes_no_more_than_reading() {
        let store = MemoryStore::new();
        Archive::open_or_create(store.shared(), NOW).await.unwrap();
        let before = store.calls().len();
        let archive = Archive::open(store.shared()).await.unwrap();
        archive.catalog().await.unwrap();
        for call in store.calls().split_off(before) {
            assert!(matches!(call, Call::Read(..) | Call::List(_)), "{call:?}");
        }
    }

    #[tokio::test]
    async fn a_store_that_refuses_or_is_away_is_told_as_that() {
        for (fault, transient) in [(Fault::Permanent, false), (Fault::Transient, true)] {
            let store = MemoryStore::new();
            Archive::open_or_create(store.shared(), NOW).await.unwrap();
            store.fail_creates(1, fault);
            let error = Archive::open_to_write(store.shared(), NOW)
                .await
                .unwrap_err();
            assert!(matches!(error, ArchiveError::Store(_)), "{error}");
            assert_eq!(error.is_transient(), transient);
            Archive::open_to_write(store.shared(), NOW).await.unwrap();
        }
    }

    /// How a store is not fit.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Flaw {
        Overwrites,
        ListsNothing,
        /// Says that the object exists, but writes it.
        Lies,
    }

    #[derive(Debug)]
    struct Flawed(MemoryStore, Flaw);

    #[async_trait]
    impl Store for Flawed {
        fn url(&self) -> String {
            "flawed://store".to_owned()
        }
        async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
            let there = self.0.object(name).is_some();
            match self.1 {
                Flaw::Overwrites => self.0.put(name, body),
                Flaw::Lies if there => self.0.put(name, "changed"),
                Flaw::Lies | Flaw::ListsNothing => return self.0.create(name, body).await,
            }
            match self.1 {
                Flaw::Lies => Err(StoreError::AlreadyExists {
                    name: name.to_owned(),
                    created: None,
                }),
                Flaw::Overwrites | Flaw::ListsNothing => Ok(None),
            }
        }
        async fn upload(&self, name: &str) -> Result<Box<dyn Upload>, StoreError> {
            self.0.upload(name).await
        }
        async fn read(
            &self,
            name: &str,
            range: Option<Range<u64>>,
        ) -> Result<ByteStream, StoreError> {
            self.0.read(name, range).await
        }
        async fn list_with(
            &self,
            wanted: Listing<'_>,
        ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
            match self.1 {
                Flaw::ListsNothing => stream::empty().boxed(),
                Flaw::Overwrites | Flaw::Lies => self.0.list_with(wanted).await,
            }
        }
        async fn delete(&self, name: &str) -> Result<(), StoreError> {
            self.0.delete(name).await
        }
    }

    #[tokio::test]
    async fn a_store_that_is_not_fit_is_refused_by_name() {
        for (flaw, says) in [
            (Flaw::Overwrites, "created a second time"),
            (Flaw::ListsNothing, "its listing"),
            (Flaw::Lies, "has other bytes than were written"),
        ] {
            let store: SharedStore = std::sync::Arc::new(Flawed(MemoryStore::new(), flaw));
            let error = Archive::open_to_write(store, NOW).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, ArchiveError::Unfit { .. }), "{text}");
            assert!(
                text.contains("flawed://store") && text.contains(says),
                "{text}"
            );
        }
    }
}

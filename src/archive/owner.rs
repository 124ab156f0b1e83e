//! Whose sidecar an archive belongs to. An archive holds one line of histories for sidecars, so it belongs to one
//! server.

use serde::{Deserialize, Serialize};

use super::{Archive, ArchiveError, FORMAT, Name, documents};

/// `sidecar.json`: created by the first sidecar that has a name, and never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SidecarDoc {
    /// [`FORMAT`].
    pub format: u32,
    /// `--name`.
    pub name: String,
    /// Unix milliseconds.
    pub created_unix_ms: i64,
}

impl Archive {
    /// The name of the sidecar that the archive belongs to. None: the first one that asks.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn recorded_owner(&self) -> Result<Option<String>, ArchiveError> {
        let object = Name::Sidecar.to_string();
        let Some(bytes) = self.read_document(&object).await? else {
            return Ok(None);
        };
        let doc: SidecarDoc = documents::from_bytes(&object, &bytes)?;
        Ok(Some(doc.name))
    }

    /// The name of the sidecar that the archive belongs to: `name`, unless another one is recorded. An archive of an
    /// older build has no name, and belongs to the first sidecar that asks.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn belongs_to(&self, name: &str, now_unix_ms: i64) -> Result<String, ArchiveError> {
        let object = Name::Sidecar.to_string();
        if self.recorded_owner().await?.is_none() {
            let doc = SidecarDoc {
                format: FORMAT,
                name: name.to_owned(),
                created_unix_ms: now_unix_ms,
            };
            let body = documents::to_bytes(&object, &doc)?;
            self.create_unless_there(&object, body).await?;
        }
        // Another one may have been first.
        let recorded = self.recorded_owner().await?;
        recorded.ok_or(ArchiveError::Missing { object })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::testing::on_both_stores;
    use crate::store::SharedStore;

    on_both_stores!(an_archive_belongs_to_the_first_that_asks);

    async fn an_archive_belongs_to_the_first_that_asks(store: SharedStore) {
        let archive = Archive::open_or_create(store, 0).await.unwrap();
        let (one, two) = tokio::join!(archive.belongs_to("one", 1), archive.belongs_to("two", 2));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one, two);
        assert!(["one", "two"].contains(&one.as_str()));
        assert_eq!(archive.belongs_to("three", 3).await.unwrap(), one);
        let catalog = archive.catalog().await.unwrap();
        assert!(catalog.problems.is_empty(), "{:?}", catalog.problems);
    }
}

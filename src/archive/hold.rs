//! Holds: points that stay, whatever a policy says.
//!
//! A hold names a point, and what a restore to it needs: a base, and the log from there on, through all histories in
//! between. The rest of those histories is not held.

use std::fmt;
use std::str::FromStr;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::listing::PARALLEL_READS;
use super::names::{self, Name};
use super::{Archive, ArchiveError, BaseDigest, documents};
use crate::wire::position::{Offset, Position, ReplId};

/// The longest name of a hold, in bytes.
const NAME_MAX: usize = 40;

/// What a hold is called: up to 40 letters, digits, `-`, `_` and `.`, the first of them a letter or a digit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HoldName {
    bytes: [u8; NAME_MAX],
    length: u8,
}

/// Text that is no name of a hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot be the name of a hold: write up to {NAME_MAX} letters (a to z), digits, `-`, `_` and `.`, with a letter or a \
     digit first"
)]
pub struct BadHoldName(String);

impl HoldName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length));
        std::str::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
    }
}

impl FromStr for HoldName {
    type Err = BadHoldName;

    fn from_str(text: &str) -> Result<Self, BadHoldName> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric();
        let begins = text.bytes().next().is_some_and(is_plain);
        let all = text.bytes().all(|it| is_plain(it) || b"-_.".contains(&it));
        let mut bytes = [0; NAME_MAX];
        let (Some(place), Ok(length)) = (bytes.get_mut(..text.len()), u8::try_from(text.len()))
        else {
            return Err(BadHoldName(text.to_owned()));
        };
        if !begins || !all {
            return Err(BadHoldName(text.to_owned()));
        }
        place.copy_from_slice(text.as_bytes());
        Ok(Self { bytes, length })
    }
}

impl TryFrom<String> for HoldName {
    type Error = BadHoldName;

    fn try_from(text: String) -> Result<Self, BadHoldName> {
        text.parse()
    }
}

impl From<HoldName> for String {
    fn from(name: HoldName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for HoldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for HoldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `holds/<name>.json`: created once. An operator may delete it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldDoc {
    /// [`super::FORMAT`].
    pub format: u32,
    /// What it is called.
    pub name: HoldName,
    /// The point that is held.
    pub point: Position,
    /// The time whose data it is, Unix milliseconds. Null: it is not known.
    pub as_of_unix_ms: Option<i64>,
    /// The base that a restore begins with.
    pub base: Position,
    /// What identifies its bytes, as its manifest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<BaseDigest>,
    /// The log that a restore needs after it.
    pub log: Vec<HeldLog>,
    /// Who made it.
    pub writer: String,
    /// Unix milliseconds, by the clock of the machine that made it.
    pub created_unix_ms: i64,
}

/// A stretch of a log that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLog {
    /// Whose.
    pub history: ReplId,
    /// The bytes after this offset,
    pub after: Offset,
    /// up to this one.
    pub upto: Offset,
}

impl Archive {
    /// All holds. One that cannot be read is an error: what it holds is not known.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn all_holds(&self) -> Result<Vec<HoldDoc>, ArchiveError> {
        let (holds, mut unreadable) = self.readable_holds().await?;
        match unreadable.pop() {
            Some(error) => Err(error),
            None => Ok(holds),
        }
    }

    /// The holds that can be read, and what is wrong with others: for whoever deletes nothing.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn readable_holds(&self) -> Result<(Vec<HoldDoc>, Vec<ArchiveError>), ArchiveError> {
        let mut found = Vec::new();
        let mut listed = self.store.list(names::HOLDS, None).await;
        while let Some(object) = listed.try_next().await? {
            if matches!(Name::parse(&object.name), Some(Name::Hold(_))) {
                found.push(object.name);
            }
        }
        let mut read = stream::iter(found)
            .map(|object| async move {
                // An operator may have removed it since.
                let bytes = self.read_document(&object).await?;
                bytes
                    .map(|bytes| documents::from_bytes(&object, &bytes))
                    .transpose()
            })
            .buffered(PARALLEL_READS);
        let (mut holds, mut unreadable) = (Vec::new(), Vec::new());
        while let Some(hold) = read.next().await {
            match hold {
                Ok(hold) => holds.extend(hold),
                Err(error @ ArchiveError::Store(_)) => return Err(error),
                Err(error) => unreadable.push(error),
            }
        }
        drop(read);
        Ok((holds, unreadable))
    }

    /// Creates a hold. False: there is one of that name.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn create_hold(&self, doc: &HoldDoc) -> Result<bool, ArchiveError> {
        let object = Name::Hold(doc.name).to_string();
        let body = documents::to_bytes(&object, doc)?;
        match self.store.create(&object, body).await {
            Ok(_) => Ok(true),
            Err(crate::store::StoreError::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_of_holds_are_plain() {
        for text in ["a", "before-2.0", "A_b.c-9", &"x".repeat(NAME_MAX)] {
            let name: HoldName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(serde_json::from_str::<HoldName>(&json).unwrap(), name);
        }
        for text in ["", ".a", "-a", "a/b", "a b", "ä", &"x".repeat(NAME_MAX + 1)] {
            let error = text.parse::<HoldName>().unwrap_err().to_string();
            assert!(error.contains("letters"), "{error}");
        }
    }
}

//! Where the archive is, and how its objects are kept there.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::ConfigError;

/// A key file is read whole. Base64 of a key has 44 characters. A longer file than this is certainly the wrong one.
const KEY_FILE_MAX: u64 = 4 * 1024;

/// Where the archive is, and how its objects are kept there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// `gs://…`, `s3://…`, `az://…`, `file:///…`.
    pub url: String,
    /// Settings that only Google Cloud Storage has.
    pub gcs: GcsOptions,
}

/// How objects are kept in Google Cloud Storage. The default is the bucket's own setting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcsOptions {
    /// What objects are encrypted with.
    pub encryption: Encryption,
    /// The storage class of new objects.
    pub storage_class: Option<StorageClass>,
    /// The project that pays for the requests (requester pays).
    pub user_project: Option<String>,
}

/// The key with which the service encrypts objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Encryption {
    /// The bucket's own setting.
    #[default]
    OfBucket,
    /// New objects with this key of Cloud KMS (customer-managed).
    Managed(KmsKey),
    /// All objects with this key, which the service forgets after each request (customer-supplied).
    Supplied(EncryptionKey),
}

impl StoreConfig {
    /// The store at `url`, with default settings.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            gcs: GcsOptions::default(),
        }
    }

    /// Refuses what the store of that URL does not know.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if self.url.starts_with("gs:") {
            return Ok(self);
        }
        let setting = match &self.gcs {
            GcsOptions {
                encryption: Encryption::Managed(_),
                ..
            } => "kms_key",
            GcsOptions {
                encryption: Encryption::Supplied(_),
                ..
            } => "encryption_key_file",
            GcsOptions {
                storage_class: Some(_),
                ..
            } => "storage_class",
            GcsOptions {
                user_project: Some(_),
                ..
            } => "user_project",
            _ => return Ok(self),
        };
        Err(ConfigError(format!(
            "`{setting}` is only for Google Cloud Storage (gs://BUCKET/PREFIX). Leave it out for this store"
        )))
    }
}

/// A key of Cloud KMS: `projects/P/locations/L/keyRings/R/cryptoKeys/K`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsKey(String);

impl KmsKey {
    /// Its resource name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KmsKey {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        const FORM: &str = "projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY";
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
        };
        match parts.as_slice() {
            [
                "projects",
                p,
                "locations",
                l,
                "keyRings",
                r,
                "cryptoKeys",
                k,
            ] if [p, l, r, k].into_iter().all(|part| plain(part)) => Ok(Self(text.to_owned())),
            [.., "cryptoKeyVersions", _] => Err(ConfigError(format!(
                "a version of a key cannot be chosen (the service takes the primary one): write {FORM}"
            ))),
            _ => Err(ConfigError(format!(
                "`{text}` is not the name of a key of Cloud KMS: write {FORM}"
            ))),
        }
    }
}

/// A storage class of Google Cloud Storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageClass {
    /// No least time.
    Standard,
    /// Paid for 30 days at least.
    Nearline,
    /// Paid for 90 days at least.
    Coldline,
    /// Paid for 365 days at least.
    Archive,
}

impl StorageClass {
    /// The name that the service uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "STANDARD",
            Self::Nearline => "NEARLINE",
            Self::Coldline => "COLDLINE",
            Self::Archive => "ARCHIVE",
        }
    }
}

impl FromStr for StorageClass {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let all = [
            Self::Standard,
            Self::Nearline,
            Self::Coldline,
            Self::Archive,
        ];
        all.into_iter()
            .find(|class| class.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                ConfigError(format!(
                    "`{text}` is not a storage class: write STANDARD, NEARLINE, COLDLINE or ARCHIVE"
                ))
            })
    }
}

/// A project that pays, by its id or number.
pub fn parse_project(text: &str) -> Result<String, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte);
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(ConfigError(format!(
            "`{text}` is not a project: write its id, such as my-project-123456, or its number"
        )));
    }
    Ok(text.to_owned())
}

/// A key of AES-256. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey([u8; 32]);

impl EncryptionKey {
    /// The key itself: only for the wire.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads a key file: base64 of 32 bytes, or the 32 bytes. No error shows what is in it.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let complain =
            |why: &dyn fmt::Display| ConfigError(format!("key file {}: {why}", path.display()));
        if Self::from_base64(path.as_os_str().as_encoded_bytes()).is_some() {
            // It must not appear in an error, nor in a list of processes.
            return Err(ConfigError::new(
                "this looks like the key itself, which other users can see in the list of processes. Write the name of \
                 a file that holds the key",
            ));
        }
        let length = std::fs::metadata(path)
            .map_err(|error| complain(&error))?
            .len();
        if length > KEY_FILE_MAX {
            return Err(complain(&format_args!(
                "{length} bytes is too long for a key"
            )));
        }
        let bytes = std::fs::read(path).map_err(|error| complain(&error))?;
        Self::parse(&bytes).ok_or_else(|| {
            complain(
                &"it holds neither 32 bytes nor the base64 of 32 bytes; `openssl rand -base64 32` makes such a key",
            )
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.try_into() {
            Ok(raw) => Some(Self(raw)),
            Err(_) => Self::from_base64(bytes),
        }
    }

    fn from_base64(bytes: &[u8]) -> Option<Self> {
        let decoded = BASE64_STANDARD.decode(bytes.trim_ascii()).ok()?;
        decoded.try_into().ok().map(Self)
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KMS: &str = "projects/p-1/locations/europe-west3/keyRings/r_1/cryptoKeys/k";

    #[test]
    fn a_kms_key_is_named_in_full_and_without_a_version() {
        assert_eq!(KMS.parse::<KmsKey>().unwrap().as_str(), KMS);
        for wrong in [
            "",
            "k",
            "projects/p/locations/l/keyRings/r/cryptoKeys/",
            "x&y",
        ] {
            let error = wrong.parse::<KmsKey>().unwrap_err().to_string();
            assert!(error.contains("write projects/PROJECT/"), "{error}");
        }
        let version = format!("{KMS}/cryptoKeyVersions/3");
        let error = version.parse::<KmsKey>().unwrap_err().to_string();
        assert!(error.contains("version"), "{error}");
    }

    #[test]
    fn a_class_and_a_project_are_what_the_service_knows() {
        let class: StorageClass = "nearline".parse().unwrap();
        assert_eq!(class.as_str(), "NEARLINE");
        let error = "NEAR".parse::<StorageClass>().unwrap_err().to_string();
        assert!(error.contains("COLDLINE"), "{error}");
        assert_eq!(parse_project("example.com:p-1").unwrap(), "example.com:p-1");
        for wrong in ["", "a b", "a\r\nx: y"] {
            assert!(parse_project(wrong).is_err());
        }
    }

    #[test]
    fn a_key_file_has_the_key_or_its_base64_and_is_never_shown() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        let key = *b"0123456789-secret-9876543210-key";
        let base64 = BASE64_STANDARD.encode(key);
        for content in [
            key.to_vec(),
            base64.clone().into_bytes(),
            format!(" {base64}\r\n").into_bytes(),
        ] {
            std::fs::write(&path, content).unwrap();
            let read = EncryptionKey::from_file(&path).unwrap();
            assert_eq!(read.expose(), &key);
            assert_eq!(format!("{read:?} {read:#?}"), "*** ***");
        }
        let text = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            EncryptionKey::from_file(&path).unwrap_err().to_string()
        };
        for content in ["", "secret", &base64[..40], &format!("{base64}{base64}")] {
            let text = text(content.as_bytes());
            assert!(text.contains("openssl rand -base64 32"), "{text}");
            assert!(text.contains("key file /"), "{text}");
            assert!(
                !text.contains("secret") && !text.contains(&base64[..9]),
                "{text}"
            );
        }
        assert!(text(&[b'A'; 5000]).contains("too long"));
        std::fs::remove_file(&path).unwrap();
        assert!(EncryptionKey::from_file(&path).is_err());
        let text = EncryptionKey::from_file(Path::new(&base64))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("a file that holds the key") && !text.contains(&base64[..9]),
            "{text}"
        );
    }

    #[test]
    fn what_is_for_gcs_is_refused_with_another_store() {
        let with = |gcs: &GcsOptions, url: &str| {
            let gcs = gcs.clone();
            StoreConfig {
                gcs,
                ..StoreConfig::at(url)
            }
            .checked()
        };
        let none = GcsOptions::default();
        for (gcs, flag) in [
            (
                GcsOptions {
                    encryption: Encryption::Managed(KMS.parse().unwrap()),
                    ..none.clone()
                },
                "`kms_key`",
            ),
            (
                GcsOptions {
                    encryption: Encryption::Supplied(EncryptionKey([7; 32])),
                    ..none.clone()
                },
                "`encryption_key_file`",
            ),
            (
                GcsOptions {
                    storage_class: Some(StorageClass::Archive),
                    ..none.clone()
                },
                "`storage_class`",
            ),
            (
                GcsOptions {
                    user_project: Some("p".to_owned()),
                    ..none.clone()
                },
                "`user_project`",
            ),
        ] {
            assert!(with(&gcs, "gs://b/p").is_ok());
            for url in ["file:///x", "s3://b/p", "memory:"] {
                let error = with(&gcs, url).unwrap_err().to_string();
                assert!(
                    error.starts_with(flag) && error.contains("gs://"),
                    "{error}"
                );
            }
        }
        assert!(with(&none, "file:///x").is_ok());
    }
}

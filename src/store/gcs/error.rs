//! What went wrong with a request to Google Cloud Storage, whether to try it again, and when.

use std::time::Duration;

use google_cloud_storage::Error;
use tokio::time::{Instant, sleep};

use crate::store::StoreError;

/// First and longest pause between two tries.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A server may ask for more patience, up to this; beyond, the call returns and tells.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// What a server says is shown up to so many bytes.
const TEXT_MAX: usize = 300;

/// How one try ended.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The object exists, and another create made it.
    Exists,
    /// There is no such object, or no such bucket.
    NotFound(String),
    /// Worth another try, after the pause that the server asked for.
    Again(String, Option<Duration>),
    /// The bytes that came do not have the object's checksum.
    Damaged(String),
    /// The object has another key than the one that was given, or a key and none was given, or none.
    WrongKey(String),
    /// No use trying again without a change.
    Refused(u16, String),
}

impl Attempt {
    /// Can a read go on where it was?
    pub(super) fn may_resume(&self) -> bool {
        matches!(self, Self::Again(..))
    }

    /// As the store's own error.
    pub(super) fn told(self, what: String) -> StoreError {
        match self {
            Self::Exists => StoreError::AlreadyExists { name: what },
            Self::NotFound(cause) => StoreError::Permanent {
                what,
                cause: format!("{cause}. Does the bucket exist?"),
            },
            Self::Again(cause, _) | Self::Damaged(cause) => StoreError::Transient { what, cause },
            Self::WrongKey(cause) | Self::Refused(_, cause) => {
                StoreError::Permanent { what, cause }
            }
        }
    }
}

/// One call of the store: as many tries as fit into its limit.
pub(super) struct Call {
    verb: &'static str,
    /// `gs://bucket/object`.
    shown: String,
    limit: Duration,
}

impl Call {
    pub(super) fn new(verb: &'static str, shown: String, limit: Duration) -> Self {
        Self { verb, shown, limit }
    }

    /// Tries until it works, until it makes no sense, or until the time is over.
    pub(super) async fn run<T, F: Future<Output = Result<T, Attempt>>>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let failed = match attempt().await {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            let wait = match &failed {
                Attempt::Again(_, asked) => asked
                    .unwrap_or_default()
                    .min(RETRY_AFTER_MAX)
                    .max(pause(tries)),
                Attempt::Damaged(_) => pause(tries),
                Attempt::Exists
                | Attempt::NotFound(_)
                | Attempt::WrongKey(_)
                | Attempt::Refused(..) => {
                    return Err(self.error(failed));
                }
            };
            if begun.elapsed().saturating_add(wait) > self.limit {
                return Err(self.error(failed));
            }
            tries = tries.saturating_add(1);
            sleep(wait).await;
        }
    }

    fn error(&self, failed: Attempt) -> StoreError {
        match failed {
            Attempt::Exists => StoreError::AlreadyExists {
                name: self.shown.clone(),
            },
            Attempt::NotFound(_) if matches!(self.verb, "read" | "delete") => {
                StoreError::NotFound {
                    name: self.shown.clone(),
                }
            }
            Attempt::Refused(status @ (401 | 403), cause) => StoreError::Permanent {
                what: format!("cannot {} {}", self.verb, self.shown),
                cause: format!("{cause} (HTTP {status}). {}", self.advice(status, &cause)),
            },
            other => other.told(format!("cannot {} {}", self.verb, self.shown)),
        }
    }

    fn advice(&self, status: u16, said: &str) -> String {
        if status == 401 {
            return "The credentials are not accepted: see which account is meant to be used here"
                .to_owned();
        }
        if said.contains("KMS") {
            return "The service agent of Cloud Storage needs the role roles/cloudkms.cryptoKeyEncrypterDecrypter on the key"
                .to_owned();
        }
        if said.contains("serviceusage.services.use") {
            return "The account needs the permission serviceusage.services.use on the project that pays (--user-project)"
                .to_owned();
        }
        // The service names what is missing: creating an object that exists takes storage.objects.delete as well.
        let named = said
            .split_whitespace()
            .find(|word| word.starts_with("storage."));
        let permission = match (named, self.verb) {
            (Some(named), _) => named.trim_end_matches(['.', ',']),
            (None, "list") => "storage.objects.list",
            (None, "read") => "storage.objects.get",
            (None, "delete") => "storage.objects.delete",
            (None, _) => "storage.objects.create",
        };
        format!(
            "The account needs the permission {permission} on the bucket; the role roles/storage.objectUser has all that \
             is used"
        )
    }
}

/// The pause before try `n + 1`: doubled each time up to a limit, and up to a quarter less, so that many do not try in step.
pub(super) fn pause(n: u32) -> Duration {
    let pause = PAUSE_FIRST
        .saturating_mul(1_u32.checked_shl(n.min(16)).unwrap_or(u32::MAX))
        .min(PAUSE_MAX);
    pause.mul_f64(1.0 - rand::random::<f64>() / 4.0)
}

pub(super) fn too_slow(limit: Duration) -> Attempt {
    Attempt::Again(format!("no answer within {} s", limit.as_secs()), None)
}

/// Of the SDK.
pub(super) fn of_sdk(error: &Error) -> Attempt {
    if let Some(status) = error.http_status_code() {
        let payload = error
            .http_payload()
            .map_or(&b""[..], |payload| &payload[..]);
        let said = match error.status() {
            Some(status) => status.message.clone(),
            None => String::from_utf8_lossy(payload).into_owned(),
        };
        let after = error
            .http_headers()
            .and_then(|headers| headers.get("retry-after"))
            .and_then(|value| value.to_str().ok());
        return of_status(status, &said, after);
    }
    if error.is_authentication() {
        return of_credentials(error);
    }
    let text = chain(error);
    // The SDK compares the checksum of a whole read at its end.
    if error.is_deserialization() || text.contains("checksum") {
        return Attempt::Damaged(text);
    }
    Attempt::Again(text, None)
}

/// Tokens come from a server too, which may be away; a file that is no credentials file stays one.
pub(super) fn of_credentials(error: &(dyn std::error::Error + 'static)) -> Attempt {
    let mut source = Some(error);
    while let Some(inner) = source {
        if let Some(credentials) =
            inner.downcast_ref::<google_cloud_auth::errors::CredentialsError>()
            && !credentials.is_transient()
        {
            return Attempt::Refused(401, chain(error));
        }
        source = inner.source();
    }
    Attempt::Again(chain(error), None)
}

/// An answer that is no success.
pub(super) fn of_status(status: u16, said: &str, retry_after: Option<&str>) -> Attempt {
    let text = format!("the server says: {}", short(said));
    match status {
        404 => Attempt::NotFound(text),
        408 | 429 | 500..=599 => {
            let after = retry_after.and_then(|value| value.trim().parse().ok());
            Attempt::Again(
                format!("{text} (HTTP {status})"),
                after.map(Duration::from_secs),
            )
        }
        401 | 403 => Attempt::Refused(status, text),
        // What came there has another checksum than what was sent: nothing was created.
        400 if ["crc32c", "checksum", "md5"]
            .iter()
            .any(|word| said.to_ascii_lowercase().contains(word)) =>
        {
            Attempt::Again(text, None)
        }
        412 => Attempt::Exists,
        _ if let Some(advice) = key_advice(said) => {
            Attempt::WrongKey(format!("{text} (HTTP {status}). {advice}"))
        }
        400 if said.contains("requester pays") => Attempt::Refused(
            status,
            format!(
                "{text} (HTTP {status}). Name the project that pays for the requests with --user-project"
            ),
        ),
        _ => Attempt::Refused(status, format!("{text} (HTTP {status})")),
    }
}

/// What to do about an object's key, when that is what is told: in words, or by a reason's name.
fn key_advice(said: &str) -> Option<&'static str> {
    let said = said.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["encryption key is incorrect", "encryptionkeyisincorrect"]) {
        Some("The object was made with another key than the one in --encryption-key-file")
    } else if says(&[
        "not encrypted by a customer-supplied",
        "not encrypted with a customer-supplied",
        "resourcenotencryptedwithcustomer",
    ]) {
        Some(
            "The object was made without --encryption-key-file: leave it out, or begin in another prefix",
        )
    } else if says(&[
        "encrypted by a customer-supplied",
        "encrypted with a customer-supplied",
        "resourceisencryptedwithcustomer",
    ]) {
        Some("Name the file that has the object's key with --encryption-key-file")
    } else {
        None
    }
}

/// An error with what caused it.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = inner.source();
    }
    short(&text)
}

fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
mod tests {
    use super::*;

    #[test]
    fn what_was_garbled_on_its_way_up_is_sent_again() {
        let said = "Provided CRC32C \"AAAAAA==\" doesn't match calculated CRC32C \"yZRlqg==\".";
        assert!(matches!(of_status(400, said, None), Attempt::Again(..)));
        let said = "Invalid argument.";
        assert!(matches!(of_status(400, said, None), Attempt::Refused(..)));
    }

    #[test]
    fn what_is_wrong_with_a_key_or_a_payer_is_told_with_the_flag() {
        for (said, advice) in [
            (
                "The target object is encrypted by a customer-supplied encryption key.",
                "Name the file",
            ),
            (
                "The provided encryption key is incorrect.",
                "with another key",
            ),
            (
                r#"{"errors":[{"reason":"customerEncryptionKeyIsIncorrect"}]}"#,
                "with another key",
            ),
            (
                "The target object is not encrypted by a customer-supplied encryption key.",
                "made without --encryption-key-file",
            ),
        ] {
            let attempt = of_status(400, said, None);
            assert!(matches!(attempt, Attempt::WrongKey(_)), "{attempt:?}");
            let error = attempt.told("cannot read gs://b/o".to_owned());
            assert!(!error.is_transient());
            assert!(error.to_string().contains(advice), "{error}");
        }
        let said = "Bucket is a requester pays bucket but no user project provided.";
        let error = of_status(400, said, None).told(String::new());
        assert!(error.to_string().contains("--user-project"), "{error}");
    }

    #[tokio::test]
    async fn a_permission_that_the_service_names_is_the_one_that_is_told() {
        let told = async |said: &str| {
            let call = Call::new("create", "gs://b/o".to_owned(), Duration::ZERO);
            let error = call
                .run(|| async { Err::<(), _>(of_status(403, said, None)) })
                .await
                .unwrap_err();
            assert!(!error.is_transient());
            error.to_string()
        };
        assert!(
            told("forbidden")
                .await
                .contains("storage.objects.create on")
        );
        let text = told("a@b.example does not have storage.objects.delete access to the object.");
        let text = text.await;
        assert!(
            text.contains("permission storage.objects.delete on"),
            "{text}"
        );
        let text = told("Permission denied on Cloud KMS key.").await;
        assert!(text.contains("cryptoKeyEncrypterDecrypter"), "{text}");
        let text = told("Caller lacks serviceusage.services.use access").await;
        assert!(text.contains("--user-project"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_minutes_is_outlived_with_growing_pauses() {
        let begun = Instant::now();
        let mut tries = Vec::new();
        let call = Call::new("create", "gs://b/x".to_owned(), Duration::from_secs(600));
        call.run(|| {
            tries.push(begun.elapsed());
            let back = begun.elapsed() > Duration::from_secs(9 * 60);
            async move {
                match back {
                    true => Ok(()),
                    false => Err(Attempt::Again("nobody listens".to_owned(), None)),
                }
            }
        })
        .await
        .unwrap();
        let pauses: Vec<Duration> = tries.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses[0] <= PAUSE_FIRST);
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX));
        assert!((50..90).contains(&tries.len()), "{} tries", tries.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_within_its_limit_and_waits_as_asked() {
        let mut tries = 0;
        let call = Call::new("list", "gs://b/x".to_owned(), Duration::from_secs(30));
        let begun = Instant::now();
        let error = call
            .run(|| {
                tries += 1;
                async { Err::<(), _>(of_status(503, "away", None)) }
            })
            .await
            .unwrap_err();
        assert!(error.is_transient());
        assert!((5..20).contains(&tries), "{tries} tries");
        assert!(begun.elapsed() <= Duration::from_secs(30));

        let mut times = Vec::new();
        call.run(|| {
            times.push(Instant::now());
            let done = times.len() > 1;
            async move {
                match done {
                    true => Ok(()),
                    false => Err(of_status(429, "slow down", Some("7"))),
                }
            }
        })
        .await
        .unwrap();
        assert_eq!(times.len(), 2);
        assert!(times[1].duration_since(times[0]) >= Duration::from_secs(7));
    }

    #[test]
    fn pauses_grow_to_a_limit_and_vary() {
        for n in 0..80 {
            let longest = PAUSE_FIRST.saturating_mul(1 << n.min(16)).min(PAUSE_MAX);
            let pause = pause(n);
            assert!(
                pause <= longest && pause >= longest.mul_f64(0.74),
                "{n}: {pause:?}"
            );
        }
        assert!((0..20).any(|_| pause(3) != pause(3)));
    }
}

//! Tries of one request: how each one ended, whether to try again, and when. For every store on a network.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Created, StoreError};
use crate::runtime::backoff::Backoff;

/// First and longest pause between two tries.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A server may ask for a longer pause, up to this. If it asks for more, the call returns an error.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// A server's text is shown up to this many bytes.
const TEXT_MAX: usize = 300;
/// And what a library says, whose last words are often the reason.
const CHAIN_MAX: usize = 1000;

/// How one try ended.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The object exists, and another create made it, at that time.
    Exists(Created),
    /// There is no such object, or no such bucket.
    NotFound(String),
    /// Worth another try, after the pause that the server asked for.
    Again(String, Option<Duration>),
    /// The bytes that came do not have the object's checksum.
    Damaged(String),
    /// The object has another key than the one that was given, or a key and none was given, or none.
    #[cfg_attr(not(feature = "gcs"), allow(dead_code))]
    WrongKey(String),
    /// No use trying this again, but the whole from its beginning.
    Over(String),
    /// No use trying again without a change.
    Refused(u16, String),
}

/// Does an answer with this status pass? The request took too long, there are too many of them, or the service is not well.
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

/// The pause that a `Retry-After` header names. Its other form, a date, is not used by these services.
pub(super) fn retry_after(header: &str) -> Option<Duration> {
    header.trim().parse().ok().map(Duration::from_secs)
}

impl Attempt {
    /// Can a read be resumed where it stopped?
    pub(super) fn may_resume(&self) -> bool {
        matches!(self, Self::Again(..))
    }

    /// The store's own error for it.
    pub(super) fn into_error(self, what: String) -> StoreError {
        match self {
            Self::Exists(created) => StoreError::AlreadyExists {
                name: what,
                created,
            },
            Self::NotFound(cause) => StoreError::Permanent {
                what,
                cause: format!("{cause}. Check that the bucket exists"),
            },
            Self::Again(cause, _) | Self::Damaged(cause) | Self::Over(cause) => {
                StoreError::Transient { what, cause }
            }
            Self::WrongKey(cause) | Self::Refused(_, cause) => {
                StoreError::Permanent { what, cause }
            }
        }
    }
}

/// What to do about a refusal of the verb, with this status (401 or 403), and the text of the service.
pub(super) type Advice = fn(verb: &str, status: u16, said: &str) -> String;

/// One call of the store: as many tries as fit into its limit.
pub(super) struct Call {
    verb: &'static str,
    /// `gs://bucket/object`.
    shown: String,
    limit: Duration,
    advice: Advice,
}

impl Call {
    pub(super) fn new(verb: &'static str, shown: String, limit: Duration, advice: Advice) -> Self {
        Self {
            verb,
            shown,
            limit,
            advice,
        }
    }

    /// Tries until it works, until it makes no sense, or until the time has passed.
    pub(super) async fn run<T, F: Future<Output = Result<T, Attempt>>>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let mut backoff = backoff();
        loop {
            let failed = match attempt().await {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            let wait = match &failed {
                Attempt::Again(_, asked) => asked
                    .unwrap_or_default()
                    .min(RETRY_AFTER_MAX)
                    .max(backoff.pause()),
                Attempt::Damaged(_) => backoff.pause(),
                Attempt::Exists(_)
                | Attempt::NotFound(_)
                | Attempt::Over(_)
                | Attempt::WrongKey(_)
                | Attempt::Refused(..) => {
                    return Err(self.error(failed));
                }
            };
            if begun.elapsed().saturating_add(wait) > self.limit {
                return Err(self.error(failed));
            }
            sleep(wait).await;
        }
    }

    fn error(&self, failed: Attempt) -> StoreError {
        match failed {
            Attempt::Exists(created) => StoreError::AlreadyExists {
                name: self.shown.clone(),
                created,
            },
            Attempt::NotFound(_) if matches!(self.verb, "read" | "delete") => {
                StoreError::NotFound {
                    name: self.shown.clone(),
                }
            }
            Attempt::Refused(status @ (401 | 403), cause) => StoreError::Permanent {
                what: format!("cannot {} {}", self.verb, self.shown),
                cause: format!(
                    "{cause} (HTTP {status}). {}",
                    (self.advice)(self.verb, status, &cause)
                ),
            },
            other => other.into_error(format!("cannot {} {}", self.verb, self.shown)),
        }
    }
}

/// The pauses between tries.
pub(super) fn backoff() -> Backoff {
    Backoff::with_jitter(PAUSE_FIRST, PAUSE_MAX)
}

pub(super) fn too_slow(limit: Duration) -> Attempt {
    Attempt::Again(format!("no answer within {} s", limit.as_secs()), None)
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
    up_to(&text, CHAIN_MAX)
}

pub(super) fn short(text: &str) -> String {
    up_to(text, TEXT_MAX)
}

fn up_to(text: &str, limit: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(limit) {
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

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_minutes_is_outlived_with_growing_pauses() {
        let begun = Instant::now();
        let mut tries = Vec::new();
        let call = Call::new(
            "create",
            "gs://b/x".to_owned(),
            Duration::from_secs(600),
            |_, _, _| String::new(),
        );
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
        let call = Call::new(
            "list",
            "gs://b/x".to_owned(),
            Duration::from_secs(30),
            |_, _, _| String::new(),
        );
        let begun = Instant::now();
        let error = call
            .run(|| {
                tries += 1;
                async { Err::<(), _>(Attempt::Again("away".to_owned(), None)) }
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
                    false => Err(Attempt::Again(
                        "slow down".to_owned(),
                        Some(Duration::from_secs(7)),
                    )),
                }
            }
        })
        .await
        .unwrap();
        assert_eq!(times.len(), 2);
        assert!(times[1].duration_since(times[0]) >= Duration::from_secs(7));
    }
}

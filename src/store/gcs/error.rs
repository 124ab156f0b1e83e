//! What went wrong with a request to Google Cloud Storage, whether to try it again, and when.

use std::time::Duration;

use google_cloud_storage::Error;

pub(super) use crate::store::retry::{Attempt, chain, pause, too_slow};
use crate::store::retry::{Call, short};

/// A call of the store, with what to do when it is refused.
pub(super) fn call(verb: &'static str, shown: String, limit: Duration) -> Call {
    Call::new(verb, shown, limit, advice)
}

fn advice(verb: &str, status: u16) -> String {
    let permission = match verb {
        "list" => "storage.objects.list",
        "read" => "storage.objects.get",
        "delete" => "storage.objects.delete",
        _ => "storage.objects.create",
    };
    if status == 401 {
        return "The credentials are not accepted: see which account is meant to be used here"
            .to_owned();
    }
    format!(
        "The account needs the permission {permission} on the bucket; the role roles/storage.objectUser has all that \
         is used"
    )
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
        _ => Attempt::Refused(status, format!("{text} (HTTP {status})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_garbled_on_its_way_up_is_sent_again() {
        let said = "Provided CRC32C \"AAAAAA==\" doesn't match calculated CRC32C \"yZRlqg==\".";
        assert!(matches!(of_status(400, said, None), Attempt::Again(..)));
        let said = "Invalid argument.";
        assert!(matches!(of_status(400, said, None), Attempt::Refused(..)));
    }
}

//! What went wrong with a request to Google Cloud Storage, whether to try it again, and when.

use google_cloud_storage::Error;

use crate::store::retry::{Attempt, chain, is_passing, retry_after, short};

/// What to do when that verb is refused with that status.
pub(super) fn advice(verb: &str, status: u16, said: &str) -> String {
    if status == 401 {
        return "The credentials are not accepted. Check which account is set".to_owned();
    }
    if said.contains("KMS") {
        return "The service agent of Cloud Storage needs the role roles/cloudkms.cryptoKeyEncrypterDecrypter on the key"
            .to_owned();
    }
    if said.contains("serviceusage.services.use") {
        return "The account needs the permission serviceusage.services.use on the project that pays (`user_project`)"
            .to_owned();
    }
    // The service names what is missing: creating an object that exists takes storage.objects.delete as well.
    let named = said
        .split_whitespace()
        .find(|word| word.starts_with("storage."));
    let permission = match (named, verb) {
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

/// What an error of the SDK means.
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

/// Tokens come from a server, too, and it may be away. A file that is no credentials file stays one.
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
pub(super) fn of_status(status: u16, said: &str, after: Option<&str>) -> Attempt {
    let text = format!("the server says: {}", short(said));
    match status {
        404 if said.contains("bucket does not exist") => Attempt::Refused(
            status,
            format!("{text} (HTTP 404). Check that the bucket exists"),
        ),
        404 => Attempt::NotFound(text),
        _ if is_passing(status) => {
            let after = after.and_then(retry_after);
            Attempt::Again(format!("{text} (HTTP {status})"), after)
        }
        401 | 403 => Attempt::Refused(status, text),
        // What came there has another checksum than what was sent: nothing was created.
        400 if ["crc32c", "checksum", "md5"]
            .iter()
            .any(|word| said.to_ascii_lowercase().contains(word)) =>
        {
            Attempt::Again(text, None)
        }
        412 => Attempt::Exists(None),
        _ if let Some(advice) = key_advice(said) => {
            Attempt::WrongKey(format!("{text} (HTTP {status}). {advice}"))
        }
        400 if said.contains("requester pays") => Attempt::Refused(
            status,
            format!(
                "{text} (HTTP {status}). Name the project that pays for the requests with `user_project`"
            ),
        ),
        _ => Attempt::Refused(status, format!("{text} (HTTP {status})")),
    }
}

/// The advice about an object's key, if the error is about it. It is found by words or by the name of a reason.
fn key_advice(said: &str) -> Option<&'static str> {
    let said = said.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["encryption key is incorrect", "encryptionkeyisincorrect"]) {
        Some("The object was made with another key than the one in `encryption_key_file`")
    } else if says(&[
        "not encrypted by a customer-supplied",
        "not encrypted with a customer-supplied",
        "resourcenotencryptedwithcustomer",
    ]) {
        Some(
            "The object was made without `encryption_key_file`: leave it out, or begin in another prefix",
        )
    } else if says(&[
        "encrypted by a customer-supplied",
        "encrypted with a customer-supplied",
        "resourceisencryptedwithcustomer",
    ]) {
        Some("Name the file that has the object's key with `encryption_key_file`")
    } else {
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::retry::Call;

    #[test]
    fn what_was_garbled_on_its_way_up_is_sent_again() {
        let said = "Provided CRC32C \"AAAAAA==\" doesn't match calculated CRC32C \"yZRlqg==\".";
        assert!(matches!(of_status(400, said, None), Attempt::Again(..)));
        let said = "Invalid argument.";
        assert!(matches!(of_status(400, said, None), Attempt::Refused(..)));
    }

    #[test]
    fn what_is_wrong_with_a_key_or_a_payer_is_told_with_the_setting() {
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
                "made without `encryption_key_file`",
            ),
        ] {
            let attempt = of_status(400, said, None);
            assert!(matches!(attempt, Attempt::WrongKey(_)), "{attempt:?}");
            let error = attempt.into_error("cannot read gs://b/o".to_owned());
            assert!(!error.is_transient());
            assert!(error.to_string().contains(advice), "{error}");
        }
        let said = "Bucket is a requester pays bucket but no user project provided.";
        let error = of_status(400, said, None).into_error(String::new());
        assert!(error.to_string().contains("`user_project`"), "{error}");
    }

    #[tokio::test]
    async fn a_permission_that_the_service_names_is_the_one_that_is_told() {
        let told = async |said: &str| {
            let call = Call::new("create", "gs://b/o".to_owned(), Duration::ZERO, advice);
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
        assert!(text.contains("`user_project`"), "{text}");
    }

    #[test]
    fn what_may_pass_is_tried_again_when_the_service_says() {
        for (status, after, asked) in [
            (429, Some("7"), Some(Duration::from_secs(7))),
            (503, Some("soon"), None),
            (503, None, None),
        ] {
            let attempt = of_status(status, "slow down", after);
            assert!(
                matches!(&attempt, Attempt::Again(_, wait) if *wait == asked),
                "{attempt:?}"
            );
        }
    }
}

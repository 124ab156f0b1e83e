//! What went wrong with a request to S3 or Azure, whether to try it again, and what to do.

use object_store::Error;
use object_store::client::HttpError;

use super::wire::Answer;
use crate::store::retry::{Attempt, chain, is_passing, short};

/// What a failed request means.
pub(super) fn of(error: &Error) -> Attempt {
    if let Some(answer) = answer_in(error) {
        return of_answer(answer);
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<HttpError>() {
            return Attempt::Again(chain(inner), None);
        }
        source = inner.source();
    }
    let text = chain(error);
    match error {
        Error::NotFound { .. } => Attempt::NotFound(text),
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => {
            Attempt::Exists(None)
        }
        Error::PermissionDenied { .. } => Attempt::Refused(403, text),
        Error::Unauthenticated { .. } => Attempt::Refused(401, text),
        Error::NotSupported { .. } | Error::NotImplemented { .. } | Error::InvalidPath { .. } => {
            Attempt::Refused(0, text)
        }
        // The answer to one of several deletions in a request, although we ask for only one.
        _ if text.contains("(code: 403)") => Attempt::Refused(403, text),
        // Retention or a hold: `BlobImmutableDueToPolicy`.
        _ if text.contains("(code: 409)") => Attempt::Refused(409, text),
        _ => Attempt::Again(text, None),
    }
}

/// Credentials are files, or come from a server, which may be away, or say that there are none for us.
pub(super) fn of_credentials(error: &Error, advice: &str) -> Attempt {
    let text = format!("there are no credentials: {}. {advice}", chain(error));
    // The crate keeps the status to itself, but for its words.
    let said = text
        .split_once("status code: ")
        .and_then(|(_, said)| said.get(..3)?.parse().ok());
    match answer_in(error).map(|answer| answer.status).or(said) {
        Some(400..=407 | 409..=428 | 430..=499) => Attempt::Refused(0, text),
        _ => Attempt::Again(text, None),
    }
}

fn answer_in(error: &Error) -> Option<&Answer> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(answer) = inner.downcast_ref() {
            return Some(answer);
        }
        source = inner.source();
    }
    None
}

/// An answer that is no success.
pub(super) fn of_answer(answer: &Answer) -> Attempt {
    let status = answer.status;
    let said = match answer.message.as_str() {
        "" => answer.code.clone(),
        message => format!("{} ({})", short(message), answer.code),
    };
    let text = format!("the server says: {}", said.trim_end_matches(" ()"));
    let full = format!("{text} (HTTP {status})");
    let needs = |what: &str| Attempt::Refused(0, format!("{full}. {what}"));
    match (status, answer.code.as_str()) {
        (_, "NoSuchBucket" | "InvalidBucketName") => needs("Check that the bucket exists"),
        (_, "ContainerNotFound" | "InvalidResourceName") => {
            needs("Check that the container exists")
        }
        (_, "NoSuchUpload" | "InvalidBlockList" | "InvalidBlobOrBlock") => {
            Attempt::Over(format!("{text}. The upload has ended. Begin it again"))
        }
        (404, _) => Attempt::NotFound(text),
        (409 | 412 | 304, _) => Attempt::Exists(None),
        (_, "RequestTimeTooSkewed") => needs("This machine's clock is wrong"),
        (_, "ExpiredToken" | "TokenRefreshRequired") => needs(
            "Temporary credentials have expired. Give new ones, or use a role, which renews them by itself",
        ),
        (
            _,
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "AuthenticationFailed"
            | "InvalidAuthenticationInfo",
        ) => needs("The credentials are not accepted. Check which ones are set"),
        (301 | 307, _) | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
            match &answer.region {
                Some(region) => needs(&format!(
                    "The bucket is in another region: set AWS_REGION={region}"
                )),
                None => needs("Check that AWS_REGION is the region of the bucket"),
            }
        }
        // The service did not receive what was sent, or not all of it: nothing was created.
        (
            _,
            "BadDigest"
            | "InvalidDigest"
            | "XAmzContentSHA256Mismatch"
            | "Md5Mismatch"
            | "IncompleteBody"
            | "RequestTimeout",
        ) => Attempt::Again(full, answer.retry_after),
        (501, _) => {
            needs("The service lacks what creating an object only once needs (If-None-Match)")
        }
        _ if is_passing(status) => Attempt::Again(full, answer.retry_after),
        (401 | 403, _) => Attempt::Refused(status, text),
        _ => Attempt::Refused(status, full),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_code(status: u16, code: &str) -> Attempt {
        of_answer(&Answer {
            status,
            code: code.to_owned(),
            message: "words".to_owned(),
            ..Answer::default()
        })
    }

    #[test]
    fn answers_are_told_apart() {
        assert!(matches!(of_code(503, "SlowDown"), Attempt::Again(..)));
        assert!(matches!(of_code(400, "RequestTimeout"), Attempt::Again(..)));
        assert!(matches!(of_code(400, "Md5Mismatch"), Attempt::Again(..)));
        assert!(matches!(of_code(404, "NoSuchKey"), Attempt::NotFound(_)));
        assert!(matches!(of_code(404, ""), Attempt::NotFound(_)));
        assert!(matches!(of_code(404, "NoSuchUpload"), Attempt::Over(_)));
        assert!(matches!(
            of_code(412, "PreconditionFailed"),
            Attempt::Exists(_)
        ));
        assert!(matches!(
            of_code(409, "BlobAlreadyExists"),
            Attempt::Exists(_)
        ));
        assert!(matches!(
            of_code(409, "ConditionalRequestConflict"),
            Attempt::Exists(_)
        ));
        assert!(matches!(
            of_code(403, "AccessDenied"),
            Attempt::Refused(403, _)
        ));
        assert!(matches!(
            of_code(400, "InvalidArgument"),
            Attempt::Refused(400, _)
        ));
    }

    #[test]
    fn what_needs_a_change_says_which() {
        for (status, code, advice) in [
            (404, "NoSuchBucket", "Check that the bucket exists"),
            (404, "ContainerNotFound", "Check that the container exists"),
            (403, "RequestTimeTooSkewed", "clock"),
            (400, "ExpiredToken", "have expired"),
            (403, "SignatureDoesNotMatch", "not accepted"),
            (403, "AuthenticationFailed", "not accepted"),
            (301, "PermanentRedirect", "AWS_REGION"),
            (501, "NotImplemented", "If-None-Match"),
        ] {
            let attempt = of_code(status, code);
            assert!(
                matches!(&attempt, Attempt::Refused(0, text) if text.contains(advice) && text.contains("words")),
                "{attempt:?}"
            );
        }
        let elsewhere = of_answer(&Answer {
            status: 301,
            region: Some("eu-west-1".to_owned()),
            ..Answer::default()
        });
        assert!(
            matches!(&elsewhere, Attempt::Refused(0, text) if text.contains("AWS_REGION=eu-west-1")),
            "{elsewhere:?}"
        );
    }
}

//! HTTP between the crate and the service, and what we add to it. An upload is completed only if there is no such
//! object yet (the crate does not ask for that). The error text of a service is returned in full.

use std::cell::Cell;
use std::sync::Arc;
#[cfg(feature = "azure")]
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{CONTENT_RANGE, DATE, HeaderMap, HeaderValue, IF_NONE_MATCH, RETRY_AFTER};
use http::{Method, StatusCode, Uri};
use object_store::ClientOptions;
#[cfg(feature = "azure")]
use object_store::azure::{AzureAuthorizer, AzureCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};

use crate::store::Created;
use crate::store::retry::retry_after;

tokio::task_local! {
    /// What goes with the completion of an upload that runs within this scope.
    pub(super) static COMPLETION: HeaderMap;
    /// When the service answered the request that runs within this scope, by its own clock.
    pub(super) static ANSWERED: Cell<Created>;
}

/// Makes clients of the service at one address.
#[derive(Debug, Clone)]
pub(super) struct Connector(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    /// Host and port of the service. Tokens come from other hosts.
    host: Option<(String, Option<u16>)>,
    /// The account of Azure and what signs for it.
    #[cfg(feature = "azure")]
    signer: OnceLock<(String, AzureCredentialProvider)>,
}

impl Connector {
    /// HTTP for the service at `endpoint`.
    pub(super) fn new(endpoint: &str) -> Self {
        Self(Arc::new(Facts {
            host: endpoint.parse().ok().as_ref().and_then(host),
            #[cfg(feature = "azure")]
            signer: OnceLock::new(),
        }))
    }

    /// Azure's signatures cover every header, so what is added here needs a new one.
    #[cfg(feature = "azure")]
    pub(super) fn sign_with(&self, account: String, credentials: AzureCredentialProvider) {
        let _ = self.0.signer.set((account, credentials));
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Wire {
            inner: ReqwestConnector::default().connect(options)?,
            facts: Arc::clone(&self.0),
        }))
    }
}

#[derive(Debug)]
struct Wire {
    inner: HttpClient,
    facts: Arc<Facts>,
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if completes_an_upload(&request) {
            let headers = request.headers_mut();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
            if let Ok(more) = COMPLETION.try_with(Clone::clone) {
                headers.extend(more);
            }
            #[cfg(feature = "azure")]
            self.sign_again(&mut request).await?;
        }
        let ours = host(request.uri()) == self.facts.host;
        let response = self.inner.execute(request).await?;
        if part_of_nothing(&response) {
            let none = Answer {
                status: StatusCode::RANGE_NOT_SATISFIABLE.as_u16(),
                ..Answer::default()
            };
            return Err(HttpError::new(HttpErrorKind::Unknown, none));
        }
        if ours {
            let date = response.headers().get(DATE);
            let _ = ANSWERED.try_with(|answered| answered.set(date.and_then(time)));
        }
        if response.status().is_success() || !ours {
            return Ok(response);
        }
        let answer = Answer::read(response).await?;
        Err(HttpError::new(HttpErrorKind::Unknown, answer))
    }
}

#[cfg(feature = "azure")]
impl Wire {
    async fn sign_again(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        let shared_key = |value: &HeaderValue| value.as_bytes().starts_with(b"SharedKey");
        if !request
            .headers()
            .get(http::header::AUTHORIZATION)
            .is_some_and(shared_key)
        {
            return Ok(());
        }
        let Some((account, credentials)) = self.facts.signer.get() else {
            return Ok(());
        };
        let failed = |error| HttpError::new::<object_store::Error>(HttpErrorKind::Unknown, error);
        let credential = credentials.get_credential().await.map_err(failed)?;
        request.headers_mut().remove(http::header::AUTHORIZATION);
        AzureAuthorizer::new(&credential, account)
            .try_authorize(request)
            .map_err(failed)
    }
}

/// The time that a header names, as RFC 9110 has it (5.6.7).
fn time(value: &HeaderValue) -> Created {
    let at = jiff::fmt::rfc2822::parse(value.to_str().ok()?).ok()?;
    Some(at.timestamp().as_millisecond())
}

/// S3's `CompleteMultipartUpload`, Azure's `Put Block List`.
fn completes_an_upload(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let has = |wanted: &str| query.split('&').any(|pair| pair.starts_with(wanted));
    match *request.method() {
        Method::POST => has("uploadId="),
        Method::PUT => has("comp=blocklist"),
        _ => false,
    }
}

/// For a range that begins at an object's end, an emulator of Azure returns the bytes `10-9/10`, where the service says
/// 416.
fn part_of_nothing(response: &HttpResponse) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    response.status() == StatusCode::PARTIAL_CONTENT
        && range
            .and_then(|range| is_empty(range.to_str().ok()?))
            .unwrap_or_default()
}

/// Parses `bytes FIRST-LAST/SIZE`.
fn is_empty(range: &str) -> Option<bool> {
    let (range, _) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (i128, i128) = (first.parse().ok()?, last.parse().ok()?);
    Some(last < first)
}

fn host(uri: &Uri) -> Option<(String, Option<u16>)> {
    let authority = uri.authority()?;
    Some((authority.host().to_ascii_lowercase(), authority.port_u16()))
}

/// An answer that is no success.
#[derive(Debug, Default, thiserror::Error)]
#[error("{code} {message} (HTTP {status})")]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `NoSuchBucket`; empty if there is none.
    pub(super) code: String,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
    /// The region of the bucket, if it is another one.
    pub(super) region: Option<String>,
}

impl Answer {
    async fn read(response: HttpResponse) -> Result<Self, HttpError> {
        let (parts, body) = response.into_parts();
        let header = |name: &str| {
            let value = parts.headers.get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let after = header(RETRY_AFTER.as_str());
        let body = body.bytes().await?;
        let text = String::from_utf8_lossy(&body);
        Ok(Self {
            status: parts.status.as_u16(),
            // An answer to HEAD has no body.
            code: element(&text, "Code")
                .or_else(|| header("x-ms-error-code"))
                .unwrap_or_default(),
            message: element(&text, "Message").unwrap_or_else(|| text.trim().to_owned()),
            retry_after: after.and_then(|value| retry_after(&value)),
            region: header("x-amz-bucket-region").or_else(|| element(&text, "Region")),
        })
    }
}

/// The text of an element without elements of its own.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&");
    Some(text.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use object_store::client::HttpRequestBody;

    use super::*;

    #[test]
    fn only_a_completion_is_one() {
        let is = |method: &str, uri: &str| {
            let request = http::Request::builder().method(method).uri(uri);
            completes_an_upload(&request.body(HttpRequestBody::empty()).unwrap())
        };
        assert!(is("POST", "http://s3/bucket/name?uploadId=x"));
        assert!(is(
            "PUT",
            "http://az/account/container/name?comp=blocklist&sig=x"
        ));
        for (method, uri) in [
            ("POST", "http://s3/bucket/name?uploads="),
            ("PUT", "http://s3/bucket/name?partNumber=1&uploadId=x"),
            ("DELETE", "http://s3/bucket/name?uploadId=x"),
            (
                "PUT",
                "http://az/account/container/name?comp=block&blockid=x",
            ),
            ("PUT", "http://s3/bucket/name"),
        ] {
            assert!(!is(method, uri), "{method} {uri}");
        }
    }

    #[test]
    fn an_empty_range_is_one() {
        for (range, empty) in [
            ("bytes 0-0/1", Some(false)),
            ("bytes 5-9/10", Some(false)),
            ("bytes 10-9/10", Some(true)),
            ("bytes 0--1/0", Some(true)),
            ("bytes */10", None),
        ] {
            assert_eq!(is_empty(range), empty, "{range}");
        }
    }

    #[test]
    fn the_time_of_an_answer_is_read() {
        for (text, wanted) in [
            ("Thu, 01 Jan 2026 00:00:01 GMT", Some(1_767_225_601_000)),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(time(&HeaderValue::from_static(text)), wanted, "{text}");
        }
    }

    #[test]
    fn an_error_in_xml_is_read() {
        let xml = "<Error>\n<Code>NoSuchBucket</Code><Message>It&apos;s &lt;not&gt; there</Message></Error>";
        assert_eq!(element(xml, "Code").unwrap(), "NoSuchBucket");
        assert_eq!(element(xml, "Message").unwrap(), "It's <not> there");
        assert_eq!(element(xml, "Region"), None);
        assert_eq!(element("no XML", "Code"), None);
    }
}

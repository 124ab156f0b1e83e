//! URLs, the environment, credentials, and services that are not as they should be.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used
)]

use std::sync::Mutex;

use axum::extract::Request;
use axum::response::Response;

use super::*;
use crate::store::Store;

const SECRET: &str = "c2VjcmV0IG9mIHRoZSB0ZXN0cw==";

fn open(url: &str, variables: &[(&str, &str)]) -> Result<CloudStore, StoreError> {
    let own = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    CloudStore::open_with(url, own)
}

/// A server that answers each request as it is told to, and the requests that it gets: method, path and query, headers.
struct Web {
    address: String,
    seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl Web {
    async fn start(answer: fn(&str) -> (u16, String)) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let app = axum::Router::new().fallback(move |request: Request| {
            let line = format!("{} {}", request.method(), request.uri());
            let (status, body) = answer(&line);
            log.lock().unwrap().push((line, request.headers().clone()));
            async move {
                Response::builder()
                    .status(status)
                    .header("etag", "\"1\"")
                    .body(axum::body::Body::from(body))
                    .unwrap()
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, seen }
    }

    fn lines(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(line, _)| line.clone()).collect()
    }
}

#[test]
fn urls_say_bucket_and_prefix() {
    let keys = [("AZURE_STORAGE_ACCOUNT_NAME", "account")];
    for (url, shown) in [
        ("s3://my-bucket", "s3://my-bucket"),
        ("s3://b.c_d/x/y/", "s3://b.c_d/x/y"),
        ("az://my-container/x", "az://my-container/x"),
    ] {
        assert_eq!(open(url, &keys).unwrap().url(), shown);
    }
    for (wrong, advice) in [
        ("s3://", "write s3://BUCKET"),
        ("s3:///x", "write s3://BUCKET"),
        ("s3://UP/x", "write s3://BUCKET"),
        ("s3://bucket//x", "write s3://BUCKET"),
        ("s3://bucket/x?y", "write s3://BUCKET"),
        ("s3://bucket/../x", "write s3://BUCKET"),
        ("az://con/a//b", "write az://CONTAINER"),
        ("s3://name--usw2-az1--x-s3/x", "directory bucket"),
    ] {
        let error = open(wrong, &keys).unwrap_err();
        assert!(!error.is_transient());
        assert!(error.to_string().contains(advice), "{wrong}: {error}");
    }
    let error = open("az://container/x", &[]).unwrap_err().to_string();
    assert!(error.contains("AZURE_STORAGE_ACCOUNT_NAME"), "{error}");
}

#[test]
fn without_tls_only_to_this_machine_or_when_allowed() {
    let s3 = |endpoint, allow| {
        open(
            "s3://bucket/x",
            &[("AWS_ENDPOINT_URL", endpoint), ("AWS_ALLOW_HTTP", allow)],
        )
    };
    let azure = |endpoint, allow| {
        open(
            "az://bucket/x",
            &[
                ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
                ("AZURE_STORAGE_ENDPOINT", endpoint),
                ("AZURE_ALLOW_HTTP", allow),
            ],
        )
    };
    for endpoint in [
        "https://minio.example",
        "http://127.0.0.1:9000",
        "http://localhost:9000",
        "http://[::1]:9000",
    ] {
        s3(endpoint, "").unwrap();
        azure(endpoint, "").unwrap();
    }
    for (endpoint, advice) in [
        ("http://minio.example:9000", "set A"),
        ("http://127.0.0.1.example", "set A"),
        ("minio.example", "is no URL"),
        ("ftp://minio.example", "does not begin with https://"),
    ] {
        for error in [
            s3(endpoint, "").unwrap_err(),
            azure(endpoint, "false").unwrap_err(),
        ] {
            assert!(error.to_string().contains(advice), "{endpoint}: {error}");
        }
    }
    s3("http://minio.example:9000", "true").unwrap();
    azure("http://minio.example:9000", "1").unwrap();
    // An emulator on another machine is one too.
    let emulator = [
        ("AZURE_STORAGE_USE_EMULATOR", "true"),
        ("AZURITE_BLOB_STORAGE_URL", "http://other.example:10000"),
    ];
    let error = open("az://container", &emulator).unwrap_err().to_string();
    assert!(error.contains("AZURE_ALLOW_HTTP"), "{error}");
}

#[test]
fn a_store_shows_no_secret() {
    let s3 = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_SESSION_TOKEN", SECRET),
    ];
    let azure = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ACCOUNT_KEY", SECRET),
    ];
    for store in [open("s3://bucket/x", &s3), open("az://bucket/x", &azure)] {
        assert!(!format!("{store:?}").contains(SECRET));
        store.unwrap();
    }
    let half = open("s3://bucket/x", &s3[1..]).unwrap_err().to_string();
    assert!(
        half.contains("AccessKeyId") && !half.contains(SECRET),
        "{half}"
    );
    let bad = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "no base64: secret"),
    ];
    let bad = open("az://bucket/x", &bad).unwrap_err().to_string();
    assert!(
        bad.contains("Access Key") && !bad.contains("secret"),
        "{bad}"
    );
}

fn list_of(keys: &[&str]) -> String {
    let contents: String = keys
        .iter()
        .map(|key| {
            format!(
                "<Contents><Key>{key}</Key><Size>3</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        })
        .collect();
    format!("<ListBucketResult>{contents}</ListBucketResult>")
}

async fn all(store: &CloudStore) -> Result<Vec<ObjectMeta>, StoreError> {
    store.list("", None).await.try_collect().await
}

#[tokio::test]
async fn a_service_that_lists_without_order_is_refused() {
    let web = Web::start(|_| (200, list_of(&["x/a", "x/c", "x/b"]))).await;
    let environment = [
        ("AWS_ENDPOINT_URL", web.address.as_str()),
        ("AWS_SKIP_SIGNATURE", "true"),
    ];
    let store = open("s3://bucket/x", &environment).unwrap();
    let error = all(&store).await.unwrap_err();
    assert!(!error.is_transient());
    assert!(error.to_string().contains("x/b came after x/c"), "{error}");
    assert!(!web.seen.lock().unwrap()[0].1.contains_key("authorization"));
}

#[tokio::test]
async fn a_bucket_in_another_region_says_which() {
    let web = Web::start(|_| {
        let text = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong</Message>\
                    <Region>eu-west-1</Region></Error>";
        (400, text.to_owned())
    })
    .await;
    let environment = [
        ("AWS_ENDPOINT_URL", web.address.as_str()),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
    ];
    let store = open("s3://bucket/x", &environment).unwrap();
    let error = all(&store).await.unwrap_err();
    assert!(!error.is_transient());
    assert!(
        error.to_string().contains("set AWS_REGION=eu-west-1"),
        "{error}"
    );
}

/// What gives the credentials of a machine's role, and a service beside it.
fn machine(line: &str) -> (u16, String) {
    let role = "/latest/meta-data/iam/security-credentials/";
    match line {
        "PUT /latest/api/token" => (200, "session".to_owned()),
        _ if line.ends_with("/some-role") || line.ends_with("/pod") => (
            200,
            format!(
                "{{\"AccessKeyId\":\"of-the-role\",\"SecretAccessKey\":\"{SECRET}\",\"Token\":\"of-the-session\",\
                 \"Expiration\":\"2099-01-01T00:00:00Z\"}}"
            ),
        ),
        _ if line.ends_with(role) => (200, "some-role".to_owned()),
        _ => (200, list_of(&[])),
    }
}

#[tokio::test]
async fn credentials_come_from_the_machine_or_the_pod() {
    let web = Web::start(machine).await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "of the pod").unwrap();
    let pod = format!("{}/pod", web.address);
    for role in [
        vec![("AWS_METADATA_ENDPOINT", web.address.as_str())],
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", pod.as_str()),
            (
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
                token.path().to_str().unwrap(),
            ),
        ],
    ] {
        let environment = [role, vec![("AWS_ENDPOINT_URL", web.address.as_str())]].concat();
        let store = open("s3://bucket/x", &environment).unwrap();
        assert_eq!(all(&store).await.unwrap(), []);
        let seen = web.seen.lock().unwrap();
        let (line, headers) = seen.last().unwrap();
        assert!(line.starts_with("GET /bucket?"), "{line}");
        let signed = headers["authorization"].to_str().unwrap();
        assert!(signed.contains("Credential=of-the-role/"), "{signed}");
        assert_eq!(headers["x-amz-security-token"], "of-the-session");
    }
    let lines = web.lines();
    assert!(
        lines.contains(&"PUT /latest/api/token".to_owned()),
        "{lines:?}"
    );
    assert!(lines.contains(&"GET /pod".to_owned()), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_cannot_be_had_are_told_as_that() {
    // A machine that has no role says so; one that answers nothing may be on its way up.
    let web = Web::start(|_| (404, "no role".to_owned())).await;
    let busy = Web::start(|_| (429, "later".to_owned())).await;
    let elsewhere = web.address.replace("127.0.0.1", "localhost");
    for (metadata, permanent) in [
        (web.address.as_str(), true),
        (&elsewhere, true),
        (&busy.address, false),
        ("http://127.0.0.1:9", false),
    ] {
        let environment = [
            ("AWS_METADATA_ENDPOINT", metadata),
            ("AWS_ENDPOINT_URL", web.address.as_str()),
        ];
        let store = open("s3://bucket/x", &environment).unwrap();
        let error = all(&store).await.unwrap_err();
        assert_eq!(error.is_transient(), !permanent, "{error}");
        let text = error.to_string();
        assert!(text.contains("there are no credentials"), "{text}");
        assert!(text.contains("AWS_ACCESS_KEY_ID"), "{text}");
    }
    // The identity that a machine of Azure has.
    let endpoint = format!("{}/account", web.address);
    let environment = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ENDPOINT", endpoint.as_str()),
        ("AZURE_MSI_ENDPOINT", web.address.as_str()),
    ];
    let store = open("az://container/x", &environment).unwrap();
    let text = all(&store).await.unwrap_err().to_string();
    assert!(text.contains("there are no credentials"), "{text}");
    assert!(text.contains("managed identity"), "{text}");
}

#[tokio::test]
async fn the_identity_of_a_machine_of_azure_is_used() {
    let web = Web::start(|line| match line.contains("resource=") {
        true => (
            200,
            "{\"access_token\":\"of-the-machine\",\"expires_on\":\"4070908800\",\"token_type\":\"Bearer\"}".to_owned(),
        ),
        false => (200, "<EnumerationResults><Blobs></Blobs></EnumerationResults>".to_owned()),
    })
    .await;
    let environment = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ENDPOINT", web.address.as_str()),
        ("IDENTITY_ENDPOINT", web.address.as_str()),
    ];
    let store = open("az://container/x", &environment).unwrap();
    assert_eq!(all(&store).await.unwrap(), []);
    let seen = web.seen.lock().unwrap();
    assert!(seen[0].0.contains("resource="), "{}", seen[0].0);
    assert_eq!(seen[1].1["authorization"], "Bearer of-the-machine");
}

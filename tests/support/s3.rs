//! S3 in memory, for objects that fit into one request. It counts requests, and can answer late.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;

/// A running service with a bucket called `bucket`. It ends with this.
pub struct S3 {
    port: u16,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

/// By name: bytes and metadata.
pub type Objects = BTreeMap<String, (Bytes, HeaderMap)>;

#[derive(Default)]
struct Shared {
    objects: Mutex<Objects>,
    delay: Mutex<Duration>,
    ahead: Mutex<Duration>,
    asked: Mutex<Vec<Asked>>,
    locked: Mutex<Option<String>>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `LIST`, `GET`, `HEAD`, `PUT`, `DELETE`.
    pub verb: String,
    /// The object, or what is listed of the names.
    pub name: String,
}

impl Asked {
    pub fn is(&self, verb: &str, part: &str) -> bool {
        self.verb == verb && self.name.contains(part)
    }
}

impl S3 {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let app = axum::Router::new()
            .fallback(answer)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(Arc::clone(&shared));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
        Self {
            port,
            shared,
            _runtime: runtime,
        }
    }

    /// What lets the program find it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            (
                "AWS_ENDPOINT_URL",
                format!("http://127.0.0.1:{}", self.port),
            ),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "not so secret".to_owned()),
        ]
    }

    /// From now on, each answer comes so much later.
    pub fn set_delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    /// Its clock is so much ahead of ours from now on.
    pub fn set_ahead(&self, ahead: Duration) {
        *self.shared.ahead.lock().unwrap() = ahead;
    }

    /// What was asked since this was called last.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }

    /// Puts an object there.
    pub fn put(&self, name: &str, body: Bytes) {
        let mut objects = self.shared.objects.lock().unwrap();
        objects.insert(name.to_owned(), (body, HeaderMap::new()));
    }

    /// All that it has was created so much earlier.
    pub fn age(&self, by: Duration) {
        let mut objects = self.shared.objects.lock().unwrap();
        for (_, kept) in objects.values_mut() {
            let created = modified(kept) - jiff::SignedDuration::try_from(by).unwrap();
            kept.insert("last-modified", header_time(created));
        }
    }

    /// It refuses to delete what has this in its name.
    pub fn lock(&self, part: &str) {
        *self.shared.locked.lock().unwrap() = Some(part.to_owned());
    }

    /// Deletes an object.
    pub fn delete(&self, name: &str) {
        self.shared.objects.lock().unwrap().remove(name);
    }

    /// All that it has.
    pub fn objects(&self) -> Objects {
        self.shared.objects.lock().unwrap().clone()
    }

    /// It has this now.
    pub fn reset(&self, objects: Objects) {
        *self.shared.objects.lock().unwrap() = objects;
    }

    /// All names.
    pub fn names(&self) -> Vec<String> {
        self.shared
            .objects
            .lock()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let mut response = answered(&shared, request).await;
    let now = shared.now();
    response.headers_mut().insert("date", now);
    response
}

impl Shared {
    /// What its clock says, as a header has it.
    fn now(&self) -> HeaderValue {
        let now = SystemTime::now() + *self.ahead.lock().unwrap();
        header_time(jiff::Timestamp::try_from(now).unwrap())
    }
}

fn header_time(at: jiff::Timestamp) -> HeaderValue {
    let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
    let text = printer.timestamp_to_rfc9110_string(&at).unwrap();
    HeaderValue::from_str(&text).unwrap()
}

/// When an object was created.
fn modified(kept: &HeaderMap) -> jiff::Timestamp {
    let text = kept
        .get("last-modified")
        .map_or("Thu, 01 Jan 2026 00:00:00 GMT", |value| {
            value.to_str().unwrap()
        });
    jiff::fmt::rfc2822::parse(text).unwrap().timestamp()
}

async fn answered(shared: &Shared, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let query = head.uri.query().unwrap_or_default();
    let query: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let path = head.uri.path();
    let name = path.strip_prefix("/bucket").unwrap_or(path);
    let name = name.trim_start_matches('/').replace("%2F", "/");
    let lists = name.is_empty();
    let asked = Asked {
        verb: if lists {
            "LIST".to_owned()
        } else {
            head.method.to_string()
        },
        name: if lists {
            query.get("prefix").cloned().unwrap_or_default()
        } else {
            name.clone()
        },
    };
    shared.asked.lock().unwrap().push(asked);
    let delay = *shared.delay.lock().unwrap();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut objects = shared.objects.lock().unwrap();
    if lists {
        return list(&objects, &query);
    }
    match head.method {
        Method::PUT => {
            if objects.contains_key(&name) && head.headers.contains_key("if-none-match") {
                return status(StatusCode::PRECONDITION_FAILED);
            }
            let mut kept = HeaderMap::new();
            kept.insert("last-modified", shared.now());
            for (key, value) in &head.headers {
                if key.as_str().starts_with("x-amz-meta-") {
                    kept.insert(key.clone(), value.clone());
                }
            }
            objects.insert(name, (body, kept));
            Response::builder()
                .header("etag", "\"1\"")
                .body(Body::empty())
                .unwrap()
        }
        Method::GET | Method::HEAD => {
            let Some((body, kept)) = objects.get(&name) else {
                return status(StatusCode::NOT_FOUND);
            };
            get(&head.method, &head.headers, body, kept)
        }
        _ => {
            let locked = shared.locked.lock().unwrap();
            if locked.as_ref().is_some_and(|part| name.contains(part)) {
                return status(StatusCode::FORBIDDEN);
            }
            objects.remove(&name);
            status(StatusCode::NO_CONTENT)
        }
    }
}

fn status(status: StatusCode) -> Response {
    Response::builder()
        .status(status)
        .body(Body::empty())
        .unwrap()
}

fn get(method: &Method, asked: &HeaderMap, body: &Bytes, kept: &HeaderMap) -> Response {
    let mut response = Response::builder()
        .header("etag", "\"1\"")
        .header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
    for (key, value) in kept {
        let headers = response.headers_mut().unwrap();
        headers.insert(key.clone(), value.clone());
    }
    if method == Method::HEAD {
        let response = response.header("content-length", body.len());
        return response.body(Body::empty()).unwrap();
    }
    let range = asked
        .get("range")
        .map(|range| range.to_str().unwrap().to_owned());
    let Some(range) = range else {
        return response.body(Body::from(body.clone())).unwrap();
    };
    let range = range.strip_prefix("bytes=").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let end = last
        .parse()
        .map_or(body.len(), |last: usize| body.len().min(last + 1));
    if first >= body.len() {
        return status(StatusCode::RANGE_NOT_SATISFIABLE);
    }
    let shown = format!("bytes {first}-{}/{}", end - 1, body.len());
    response
        .status(StatusCode::PARTIAL_CONTENT)
        .header("content-range", shown)
        .body(Body::from(body.slice(first..end)))
        .unwrap()
}

fn list(objects: &Objects, query: &HashMap<String, String>) -> Response {
    let value = |key: &str| query.get(key).map(String::as_str);
    let prefix = value("prefix").unwrap_or_default();
    let most: usize = value("max-keys").map_or(1000, |most| most.parse().unwrap());
    let after = value("continuation-token").or(value("start-after"));
    let mut from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after.to_owned()),
        _ => Bound::Included(prefix.to_owned()),
    };
    let mut found = String::new();
    let mut count = 0;
    let mut last = String::new();
    let mut more = false;
    loop {
        let next = objects.range((from, Bound::Unbounded)).next();
        let Some((name, (body, kept))) = next.filter(|(name, _)| name.starts_with(prefix)) else {
            break;
        };
        if count == most {
            more = true;
            break;
        }
        let below = name[prefix.len()..].find('/');
        if let Some(end) = below.filter(|_| value("delimiter").is_some()) {
            let folder = &name[..=prefix.len() + end];
            found += &format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
            last = format!("{folder}\u{10ffff}");
        } else {
            found += &format!(
                "<Contents><Key>{name}</Key><LastModified>{:.3}</LastModified><ETag>\"1\"</ETag>\
                 <Size>{}</Size></Contents>",
                modified(kept),
                body.len()
            );
            last.clone_from(name);
        }
        count += 1;
        from = Bound::Excluded(last.clone());
    }
    let token = match more {
        true => format!("<NextContinuationToken>{last}</NextContinuationToken>"),
        false => String::new(),
    };
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><IsTruncated>{more}</IsTruncated>\
         <KeyCount>{count}</KeyCount>{token}{found}</ListBucketResult>"
    );
    Response::new(Body::from(text))
}

//! Google Cloud Storage, S3 and Azure Blob Storage as emulators have them (`tests/servers.sh`), behind a proxy that can do harm.
//!
//! Stands alone, as the unit tests of the stores use it too.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::collections::VecDeque;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::HttpRequestBody;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Not passed on; answered with this status, and maybe `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// Passed on and done, but the answer is this status.
    Lost(u16),
    /// Passed on; of the answer so many bytes come, then the connection is cut.
    CutAnswer(usize),
    /// Passed on; of the answer so many bytes come, and its headers say that there are no more. (No range can be said to have none:
    /// with 0, headers say the range of the request.)
    EndsEarly(usize),
    /// Not passed on: the connection is cut in the middle of the body, or before the answer.
    CutRequest,
    /// Passed on; one bit of the answer's body is another one.
    WrongAnswer,
    /// Passed on; the answer comes in small pieces with pauses.
    Trickle(Duration),
    /// Passed on without its precondition: the object is written over.
    Overwrites,
    /// Not passed on; answered with this status and message (with S3 and Azure the body as it is).
    Says(u16, &'static str),
}

/// What happens to a connection in the middle of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// RST.
    Reset,
    /// It stays, and nothing more comes.
    Stall,
}

/// Which bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Of requests.
    Up,
    /// Of answers.
    Down,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method, path and query.
    pub line: String,
    pub headers: axum::http::HeaderMap,
    /// The beginning of it, unless it met a fault.
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Whom a fault hits: method, a part of path and query, and how many requests.
#[derive(Debug)]
struct Rule {
    method: &'static str,
    part: &'static str,
    times: usize,
    fault: Fault,
}

/// Whose service is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    Google,
    S3,
    Azure,
}

/// As the emulator of Azure has them, for everybody.
pub const AZURE_ACCOUNT: &str = "devstoreaccount1";
pub const AZURE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running emulator, and the proxy before it.
pub struct Emulator {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
    proxy: u16,
    shared: Arc<Shared>,
    runtime: tokio::runtime::Runtime,
}

struct Shared {
    cloud: Cloud,
    upstream: String,
    client: reqwest::Client,
    rules: Mutex<VecDeque<Rule>>,
    /// Of the bytes that way, so many more pass.
    cuts: Mutex<Vec<(Way, usize, Cut)>>,
    log: Mutex<Vec<Seen>>,
}

/// That of Google Cloud Storage.
pub type Gcs = Emulator;

impl Emulator {
    /// Starts one of Google Cloud Storage, with an empty bucket of that name.
    pub fn start(bucket: &str) -> Self {
        Self::start_of(Cloud::Google, bucket)
    }

    /// Starts one with an empty bucket (a container, with Azure) of that name.
    pub fn start_of(cloud: Cloud, bucket: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if cloud == Cloud::Google {
            std::fs::create_dir_all(directory.path().join(bucket)).unwrap();
        }
        let port = free_port();
        let child = spawn(cloud, port, &directory);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            cloud,
            upstream: format!("http://127.0.0.1:{port}"),
            client: reqwest::Client::builder()
                .no_proxy()
                .pool_max_idle_per_host(0)
                .build()
                .unwrap(),
            rules: Mutex::default(),
            cuts: Mutex::default(),
            log: Mutex::default(),
        });
        let (wire, proxy) = listener();
        let (inner, inner_port) = listener();
        let app = axum::Router::new()
            .fallback(pass)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(Arc::clone(&shared));
        runtime.spawn(async move {
            let inner = tokio::net::TcpListener::from_std(inner).unwrap();
            axum::serve(inner, app).await.unwrap();
        });
        runtime.spawn(carry(wire, inner_port, Arc::clone(&shared)));
        let emulator = Self {
            child,
            port,
            directory,
            proxy,
            shared,
            runtime,
        };
        emulator.wait_up();
        match cloud {
            Cloud::Google => {}
            Cloud::S3 => emulator.create(&format!("/{bucket}")),
            Cloud::Azure => {
                emulator.create(&format!("/{AZURE_ACCOUNT}/{bucket}?restype=container"));
            }
        }
        emulator
    }

    /// Creates a bucket or a container.
    fn create(&self, path: &str) {
        let url = format!("{}{path}", self.shared.upstream);
        let mut request = http::Request::put(&url)
            .body(HttpRequestBody::empty())
            .unwrap();
        if self.shared.cloud == Cloud::Azure {
            let key = AzureCredential::AccessKey(AzureAccessKey::try_new(AZURE_KEY).unwrap());
            AzureAuthorizer::new(&key, AZURE_ACCOUNT)
                .try_authorize(&mut request)
                .unwrap();
        }
        let made = self
            .shared
            .client
            .put(&url)
            .headers(request.headers().clone());
        let made = self
            .runtime
            .block_on(made.header("content-length", 0).send())
            .unwrap();
        assert!(made.status().is_success(), "{made:?}");
    }

    /// What lets the program find it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        match self.shared.cloud {
            Cloud::Google => vec![("STORAGE_EMULATOR_HOST", self.host())],
            Cloud::S3 => vec![
                ("AWS_ENDPOINT_URL", self.host()),
                ("AWS_ACCESS_KEY_ID", "test".to_owned()),
                ("AWS_SECRET_ACCESS_KEY", "not so secret".to_owned()),
            ],
            Cloud::Azure => vec![
                ("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()),
                ("AZURITE_BLOB_STORAGE_URL", self.host()),
            ],
        }
    }

    /// The proxy's address.
    pub fn host(&self) -> String {
        format!("http://127.0.0.1:{}", self.proxy)
    }

    /// The emulator itself, without the proxy.
    pub fn direct_host(&self) -> String {
        self.shared.upstream.clone()
    }

    /// What it stores; with Google a directory a bucket.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The next `times` requests of `method` whose path and query have `part` in them meet `fault`.
    pub fn fault(&self, method: &'static str, part: &'static str, times: usize, fault: Fault) {
        self.shared.rules.lock().unwrap().push_back(Rule {
            method,
            part,
            times,
            fault,
        });
    }

    /// No faults from now on; gives how many were still to come.
    pub fn heal(&self) -> usize {
        let mut rules = self.shared.rules.lock().unwrap();
        rules.drain(..).map(|rule| rule.times).sum()
    }

    /// How many requests are still to meet a fault.
    pub fn pending(&self) -> usize {
        let rules = self.shared.rules.lock().unwrap();
        rules.iter().map(|rule| rule.times).sum()
    }

    /// After so many bytes that way, counted from now, their connection meets this, once.
    pub fn cut(&self, way: Way, after: usize, cut: Cut) {
        self.shared.cuts.lock().unwrap().push((way, after, cut));
    }

    /// How many cuts are still to come.
    pub fn cuts_left(&self) -> usize {
        self.shared.cuts.lock().unwrap().len()
    }

    /// The requests so far: method, path and query.
    pub fn requests(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }

    /// The same, with headers and the beginning of the body.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.log.lock().unwrap().clone()
    }

    /// `kill -9`. What it has stored stays, but for S3's.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again if it was killed, at the same address.
    pub fn restart(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            return;
        }
        self.child = spawn(self.shared.cloud, self.port, &self.directory);
        self.wait_up();
    }

    fn wait_up(&self) {
        for _ in 0..600 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the emulator of {:?} does not come up", self.shared.cloud);
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(cloud: Cloud, port: u16, directory: &tempfile::TempDir) -> Child {
    let root = std::env::var_os("BACKFEED_TEST_SERVERS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/test-servers"),
        PathBuf::from,
    );
    let name = match cloud {
        Cloud::Google => "fake-gcs",
        Cloud::S3 => "moto",
        Cloud::Azure => "azurite",
    };
    let program = root.join(name).join("bin/server");
    let port = port.to_string();
    let mut command = Command::new(&program);
    match cloud {
        Cloud::Google => command
            .args(["-scheme", "http", "-host", "127.0.0.1", "-port", &port])
            .args(["-backend", "filesystem", "-filesystem-root"])
            .arg(directory.path()),
        Cloud::S3 => command.arg(&port),
        Cloud::Azure => command
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port])
            .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"])
            .arg("--location")
            .arg(directory.path()),
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "{}: {error}. The emulator is missing: run tests/servers.sh",
                program.display()
            )
        })
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Carries bytes to the proxy and back, until a cut is due.
async fn carry(from: TcpListener, to: u16, shared: Arc<Shared>) {
    let from = tokio::net::TcpListener::from_std(from).unwrap();
    while let Ok((client, _)) = from.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
                return;
            };
            let (from_client, mut to_client) = client.into_split();
            let (from_server, mut to_server) = server.into_split();
            let reset = tokio::select! {
                reset = pump(&from_client, &mut to_server, Way::Up, &shared) => reset,
                reset = pump(&from_server, &mut to_client, Way::Down, &shared) => reset,
            };
            if reset {
                from_client.as_ref().set_zero_linger().unwrap();
                // It would be shut down in order.
                to_client.forget();
            }
        });
    }
}

/// True when the connection is to be reset.
async fn pump(from: &OwnedReadHalf, to: &mut OwnedWriteHalf, way: Way, shared: &Shared) -> bool {
    let mut buffer = vec![0; 16 << 10];
    loop {
        if from.readable().await.is_err() {
            return false;
        }
        let read = match from.try_read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Ok(0) | Err(_) => return false,
            Ok(read) => read,
        };
        let (passes, cut) = shared.cut(way, read);
        if to.write_all(&buffer[..passes]).await.is_err() {
            return false;
        }
        match cut {
            None => {}
            Some(Cut::Reset) => return true,
            Some(Cut::Stall) => std::future::pending().await,
        }
    }
}

impl Shared {
    /// How many of these bytes pass, and what happens then.
    fn cut(&self, way: Way, bytes: usize) -> (usize, Option<Cut>) {
        let mut cuts = self.cuts.lock().unwrap();
        let Some(at) = cuts.iter().position(|(it, ..)| *it == way) else {
            return (bytes, None);
        };
        if cuts[at].1 > bytes {
            cuts[at].1 -= bytes;
            return (bytes, None);
        }
        let (_, passes, cut) = cuts.remove(at);
        (passes, Some(cut))
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    let method = request.method().clone();
    let head = method == axum::http::Method::HEAD;
    let number = {
        let mut log = shared.log.lock().unwrap();
        log.push(Seen {
            line: format!("{method} {target}"),
            headers: request.headers().clone(),
            body: String::new(),
        });
        log.len() - 1
    };
    let fault = take(&shared, method.as_str(), &target);
    match fault {
        Some(Fault::Status(status, after)) => {
            // The body is taken first, as servers do.
            let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
            return answer(status, after, "made up by the test");
        }
        Some(Fault::Says(status, message)) => {
            let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
            if shared.cloud == Cloud::Google {
                return answer(status, None, message);
            }
            let response = Response::builder().status(status);
            return response.body(Body::from(message)).unwrap();
        }
        Some(Fault::CutRequest) => {
            let mut body = request.into_body().into_data_stream();
            let _ = body.next().await;
            return cut(Bytes::new());
        }
        _ => {}
    }
    let (parts, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, usize::MAX).await {
        Ok(body) => body,
        Err(_) => return answer(400, None, "made up by the test"),
    };
    let begin = &body[..body.len().min(4096)];
    shared.log.lock().unwrap()[number].body = String::from_utf8_lossy(begin).into_owned();
    let overwrites = matches!(fault, Some(Fault::Overwrites));
    let target = match overwrites {
        true => target.replace("ifGenerationMatch=0", ""),
        false => target,
    };
    let mut forward = shared
        .client
        .request(method, format!("{}{target}", shared.upstream));
    if parts.headers.contains_key("content-length") {
        forward = forward.header("content-length", body.len());
    }
    forward = forward.body(body);
    for (name, value) in &parts.headers {
        if overwrites && name == "if-none-match" {
            continue;
        }
        if !matches!(
            name.as_str(),
            "host" | "content-length" | "connection" | "transfer-encoding" | "accept-encoding"
        ) {
            forward = forward.header(name, value);
        }
    }
    let Ok(theirs) = forward.send().await else {
        // The emulator is dead: as if nobody listened.
        return cut(Bytes::new());
    };
    if let Some(Fault::Lost(status)) = fault {
        return answer(status, None, "made up by the test");
    }
    let mut response = Response::builder().status(theirs.status());
    for (name, value) in theirs.headers() {
        // Of an answer to HEAD, the length is that of what is not there.
        let kept = head && name == "content-length";
        if kept
            || !matches!(
                name.as_str(),
                "content-length" | "connection" | "transfer-encoding"
            )
        {
            response = response.header(name, value);
        }
    }
    let partial = theirs.headers().get("content-range").cloned();
    let Ok(body) = theirs.bytes().await else {
        return cut(Bytes::new());
    };
    if shared.cloud == Cloud::Google && parts.method == "GET" && target.contains("alt=media") {
        // The service says it, and the emulator does not.
        let whole = partial.as_ref().map_or(body.len(), |range| {
            let range = range.to_str().unwrap();
            range.rsplit('/').next().unwrap().parse().unwrap()
        });
        response = response.header("x-goog-stored-content-length", whole);
    }
    let body = match fault {
        Some(Fault::EndsEarly(length)) => {
            let partial = partial.filter(|_| length > 0);
            if let (Some(range), Some(headers)) = (partial, response.headers_mut()) {
                let shorter = shorter(range.to_str().unwrap(), length);
                headers.insert("content-range", shorter.parse().unwrap());
            }
            Body::from(body.slice(..length))
        }
        Some(Fault::CutAnswer(length)) => {
            return response
                .header("content-length", body.len())
                .body(broken(body.slice(..length.min(body.len()))))
                .unwrap();
        }
        Some(Fault::WrongAnswer) => {
            let mut wrong = body.to_vec();
            let middle = wrong.len() / 2;
            wrong[middle] ^= 1;
            Body::from(wrong)
        }
        Some(Fault::Trickle(pause)) => {
            // The length is known before, as the service says it.
            response = response.header("content-length", body.len());
            let step = (body.len() / 10).max(1);
            let pieces: Vec<Bytes> = body.chunks(step).map(Bytes::copy_from_slice).collect();
            Body::from_stream(futures::stream::iter(pieces).then(move |piece| async move {
                tokio::time::sleep(pause).await;
                Ok::<_, std::io::Error>(piece)
            }))
        }
        _ => Body::from(body),
    };
    response.body(body).unwrap()
}

/// `bytes FIRST-LAST/SIZE` with so many bytes.
fn shorter(range: &str, length: usize) -> String {
    let (first, rest) = range.split_once('-').unwrap();
    let start: usize = first.strip_prefix("bytes ").unwrap().parse().unwrap();
    let (_, size) = rest.split_once('/').unwrap();
    format!("{first}-{}/{size}", start + length - 1)
}

fn take(shared: &Shared, method: &str, target: &str) -> Option<Fault> {
    let mut rules = shared.rules.lock().unwrap();
    let at = rules
        .iter()
        .position(|rule| rule.method == method && target.contains(rule.part))?;
    let rule = &mut rules[at];
    rule.times -= 1;
    let fault = rule.fault.clone();
    if rule.times == 0 {
        rules.remove(at);
    }
    Some(fault)
}

fn answer(status: u16, after: Option<u64>, message: &str) -> Response {
    let mut response = Response::builder().status(status);
    if let Some(after) = after {
        response = response.header("retry-after", after);
    }
    let text = format!("{{\"error\":{{\"code\":{status},\"message\":\"{message}\"}}}}");
    response.body(Body::from(text)).unwrap()
}

/// So much, then the connection is cut.
fn cut(before: Bytes) -> Response {
    Response::builder()
        .header("content-length", before.len() + 1)
        .body(broken(before))
        .unwrap()
}

fn broken(before: Bytes) -> Body {
    let end = Err(std::io::Error::other("cut by the test"));
    Body::from_stream(futures::stream::iter([Ok(before), end]))
}

//! `/healthz`, `/readyz` and `/metrics`: the state of the process, never data.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::config::HttpAddr;
use crate::link::connection_limit::{self, ConnectionLimit};
use crate::monitoring::sources::Sources;
use crate::monitoring::status::{Phase, Status};

/// Probes and scrapes take milliseconds, and there are few at once. When there are more, the oldest one is closed.
pub const CONNECTIONS: usize = 32;
/// A client must send its request within this time. Probes give up after fewer seconds.
const HEADER: Duration = Duration::from_secs(5);
/// And it must have read the answer within this time.
const ANSWER: Duration = Duration::from_secs(15);

/// The content type of Prometheus' (OpenMetrics) text format.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {addr} for health and metrics: {cause}; choose another port, or stop what listens there"
)]
pub struct BindError {
    addr: HttpAddr,
    cause: io::Error,
}

/// Listens on `addr`. Beyond loopback is allowed: what is served holds no data and no secret.
pub async fn bind(addr: &HttpAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr.addrs())
        .await
        .map_err(|cause| BindError {
            addr: addr.clone(),
            cause,
        })
}

/// Serves until `end`, then lets open requests finish.
pub async fn serve(listener: TcpListener, status: Status, end: impl Future<Output = ()>) {
    serve_routes(listener, routes(status), end).await;
}

/// The same of a process with several sources: `/readyz` of all, and `/sources/NAME/readyz` of each.
pub async fn serve_all(listener: TcpListener, sources: Sources, end: impl Future<Output = ()>) {
    serve_routes(listener, routes_of_all(sources), end).await;
}

/// What a process of another kind says of itself.
#[cfg(feature = "cli")]
pub trait Shown: Clone + Send + Sync + 'static {
    /// What `/readyz` shows.
    type View: serde::Serialize;
    /// Has it ended?
    fn is_stopped(&self) -> bool;
    /// Whether it is ready, and what it shows.
    fn shown(&self) -> (bool, Self::View);
    /// The page of `/metrics`.
    fn metrics(&self) -> String;
}

/// The same of a process of another kind.
#[cfg(feature = "cli")]
pub async fn serve_shown<S: Shown>(listener: TcpListener, shown: S, end: impl Future<Output = ()>) {
    let routes = Router::new()
        .route("/healthz", get(healthz_of_shown::<S>))
        .route("/readyz", get(readyz_of_shown::<S>))
        .route("/metrics", get(metrics_of_shown::<S>))
        .with_state(shown);
    serve_routes(listener, routes, end).await;
}

#[cfg(feature = "cli")]
async fn healthz_of_shown<S: Shown>(State(shown): State<S>) -> Response {
    match shown.is_stopped() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "stopped\n").into_response(),
        false => "ok\n".into_response(),
    }
}

#[cfg(feature = "cli")]
async fn readyz_of_shown<S: Shown>(State(shown): State<S>) -> Response {
    let (ready, view) = shown.shown();
    (code_of(ready), Json(view)).into_response()
}

#[cfg(feature = "cli")]
async fn metrics_of_shown<S: Shown>(State(shown): State<S>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], shown.metrics()).into_response()
}

async fn serve_routes(listener: TcpListener, routes: Router, end: impl Future<Output = ()>) {
    let mut connections = ConnectionLimit::new(CONNECTIONS);
    let mut end = pin!(end);
    loop {
        let (stream, _) = tokio::select! {
            connection = connection_limit::next(&listener) => connection,
            () = &mut end => break,
        };
        connections.admit(answer(stream, routes.clone()));
    }
    drop(listener);
    connections.ended().await;
}

/// One request, one answer: a connection that is kept open for the next request wastes a file descriptor.
async fn answer(stream: TcpStream, routes: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .keep_alive(false);
    let service = TowerToHyperService::new(routes);
    let answered = http.serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(ANSWER, answered).await {
        tracing::debug!(%error, "a connection to the HTTP server failed");
    }
}

fn routes(status: Status) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(status)
}

/// That it answers is the news: the runtime turns. Waiting for Redis or for the store is healthy.
async fn healthz(State(status): State<Status>) -> Response {
    if status.view().phase == Phase::Stopped {
        (StatusCode::SERVICE_UNAVAILABLE, "stopped\n").into_response()
    } else {
        "ok\n".into_response()
    }
}

async fn readyz(State(status): State<Status>) -> Response {
    let view = status.view();
    (code_of(view.ready), Json(view)).into_response()
}

fn code_of(is_ready: bool) -> StatusCode {
    match is_ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn metrics(State(status): State<Status>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], status.prometheus()).into_response()
}

fn routes_of_all(sources: Sources) -> Router {
    Router::new()
        .route("/healthz", get(healthz_of_all))
        .route("/readyz", get(readyz_of_all))
        .route("/sources/{name}/readyz", get(readyz_of_one))
        .route("/sources/{cluster}/{shard}/readyz", get(readyz_of_shard))
        .route("/metrics", get(metrics_of_all))
        .with_state(sources)
}

async fn healthz_of_all(State(sources): State<Sources>) -> Response {
    if sources.is_stopped() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopped\n").into_response()
    } else {
        "ok\n".into_response()
    }
}

async fn readyz_of_all(State(sources): State<Sources>) -> Response {
    let view = sources.view();
    (code_of(view.ready), Json(view)).into_response()
}

async fn readyz_of_one(State(sources): State<Sources>, Path(name): Path<String>) -> Response {
    readyz_of_source(&sources, &name)
}

/// The source of a shard is called `CLUSTER/SHARD`.
async fn readyz_of_shard(
    State(sources): State<Sources>,
    Path((cluster, shard)): Path<(String, String)>,
) -> Response {
    readyz_of_source(&sources, &format!("{cluster}/{shard}"))
}

fn readyz_of_source(sources: &Sources, name: &str) -> Response {
    match sources.view_of(name) {
        Some(view) => (code_of(view.status.ready), Json(view)).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            "there is no source of that name: /readyz lists them\n",
        )
            .into_response(),
    }
}

async fn metrics_of_all(State(sources): State<Sources>) -> Response {
    let page = sources.prometheus();
    ([(header::CONTENT_TYPE, METRICS_TYPE)], page).into_response()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;
    use crate::wire::position::{Offset, Position, ReplId};

    async fn start(status: &Status) -> (SocketAddr, oneshot::Sender<()>) {
        let listener = bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(serve(listener, status.clone(), async {
            let _ = stopped.await;
        }));
        (addr, stop)
    }

    /// The status code and the body.
    async fn ask(addr: SocketAddr, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(10), socket.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    #[tokio::test]
    async fn readiness_follows_the_phase_and_tells_the_position() {
        let status = Status::new();
        let (addr, _stop) = start(&status).await;
        status.phase(Phase::WaitingForStore, "file:///backups: no such directory");
        let (code, body) = ask(addr, "/readyz").await;
        assert_eq!(code, 503);
        let view: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(view["phase"], "waiting_for_store");
        assert_eq!(view["detail"], "file:///backups: no such directory");
        assert_eq!(view["stored_offset"], serde_json::Value::Null);

        let history = ReplId::from_random([7; 20]);
        status.phase(Phase::Following, "127.0.0.1:6379");
        status.stored(
            Position {
                history,
                offset: Offset(40),
            },
            1_000,
        );
        status.received(
            Position {
                history,
                offset: Offset(42),
            },
            2_000,
        );
        let (code, body) = ask(addr, "/readyz").await;
        assert_eq!(code, 200);
        let view: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(view["history"], history.as_str());
        assert_eq!(
            (
                view["received_offset"].as_u64(),
                view["stored_offset"].as_u64()
            ),
            (Some(42), Some(40))
        );
        assert_eq!(view["lag_bytes"], 2);
    }

    #[tokio::test]
    async fn health_is_ok_as_long_as_it_runs_and_metrics_are_in_prometheus_format() {
        let status = Status::new();
        let (addr, _stop) = start(&status).await;
        assert_eq!(ask(addr, "/healthz").await, (200, "ok\n".to_owned()));
        status.metrics().segments_stored.inc_by(3);
        let (code, page) = ask(addr, "/metrics").await;
        assert_eq!(code, 200);
        assert!(
            page.contains("\nbackfeed_segments_stored_total 3\n"),
            "{page}"
        );
        assert!(
            page.contains("\n# TYPE backfeed_lag_bytes gauge\n"),
            "{page}"
        );
        assert!(page.ends_with("# EOF\n"), "{page}");
        assert_eq!(ask(addr, "/").await.0, 404);
        status.phase(Phase::Stopped, "");
        assert_eq!(ask(addr, "/healthz").await.0, 503);
    }

    #[tokio::test]
    async fn of_several_sources_each_can_be_asked_and_all_together() {
        let sources = Sources::new("f.toml", 2, 0);
        let (one, other) = (Status::new(), Status::new());
        sources.add("cart", "file:///b/cart", &one);
        sources.add("shop", "file:///b/shop", &other);
        let listener = bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(serve_all(listener, sources.clone(), std::future::pending()));
        one.phase(Phase::Following, "");
        let (code, body) = ask(addr, "/readyz").await;
        let view: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, &view["ready_sources"]), (503, &1.into()));
        assert_eq!(view["sources"]["cart"]["phase"], "following");
        assert_eq!(view["sources"]["shop"]["store"], "file:///b/shop");
        assert_eq!(ask(addr, "/sources/cart/readyz").await.0, 200);
        assert_eq!(ask(addr, "/sources/shop/readyz").await.0, 503);
        assert_eq!(ask(addr, "/sources/none/readyz").await.0, 404);
        let (code, page) = ask(addr, "/metrics").await;
        assert_eq!(code, 200);
        assert!(page.contains("backfeed_ready{source=\"cart\""), "{page}");
        assert_eq!(ask(addr, "/healthz").await, (200, "ok\n".to_owned()));
        sources.stopped();
        assert_eq!(ask(addr, "/healthz").await.0, 503);
    }

    /// Reads until it is closed.
    async fn closed(mut socket: TcpStream) -> Vec<u8> {
        let mut answer = Vec::new();
        // One that was in nobody's hands yet is reset.
        let _ = timeout(Duration::from_secs(60), socket.read_to_end(&mut answer))
            .await
            .unwrap();
        answer
    }

    #[tokio::test]
    async fn connections_that_ask_nothing_keep_nobody_out_and_go() {
        let status = Status::new();
        let (addr, _stop) = start(&status).await;
        let mut idle = Vec::new();
        for _ in 0..3 * CONNECTIONS {
            idle.push(TcpStream::connect(addr).await.unwrap());
        }
        assert_eq!(ask(addr, "/healthz").await, (200, "ok\n".to_owned()));
        // More than there may be: the first went for the last, long before its time was over.
        let first = idle.remove(0);
        let soon = timeout(HEADER / 2, closed(first));
        assert_eq!(soon.await.unwrap(), b"");
        // And one that says a byte now and then has no more time than the others.
        let mut slow = TcpStream::connect(addr).await.unwrap();
        let begun = std::time::Instant::now();
        for byte in b"GET /healthz HTTP/1.1\r\nHost: slow".iter().cycle() {
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(begun.elapsed() < ANSWER, "it is still open");
        }
        assert!(begun.elapsed() >= HEADER / 2, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_connection_is_closed_after_its_answer() {
        let status = Status::new();
        let (addr, _stop) = start(&status).await;
        let mut socket = TcpStream::connect(addr).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";
        socket.write_all(request).await.unwrap();
        let answer = String::from_utf8(closed(socket).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let taken = bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = taken.local_addr().unwrap();
        let error = bind(&addr.into()).await.unwrap_err().to_string();
        let named = format!("cannot listen on {addr} for health");
        assert!(error.contains(&named), "{error}");
    }

    /// A port alone is for all addresses of the machine, `localhost` for its own.
    #[tokio::test]
    async fn a_port_alone_and_localhost_are_listened_on() {
        let everywhere = bind(&":0".parse().unwrap()).await.unwrap();
        let local = bind(&"localhost:0".parse().unwrap()).await.unwrap();
        assert!(local.local_addr().unwrap().ip().is_loopback());
        for listener in [everywhere, local] {
            let port = listener.local_addr().unwrap().port();
            let (code, body) = {
                tokio::spawn(serve(listener, Status::new(), std::future::pending()));
                ask(SocketAddr::from(([127, 0, 0, 1], port)), "/healthz").await
            };
            assert_eq!((code, body.as_str()), (200, "ok\n"));
        }
    }

    #[tokio::test]
    async fn it_stops_when_told() {
        let status = Status::new();
        let listener = bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        timeout(Duration::from_secs(10), serve(listener, status, async {}))
            .await
            .unwrap();
    }
}

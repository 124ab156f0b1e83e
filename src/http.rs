//! `/healthz`, `/readyz` and `/metrics`: how the process is, never data.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::status::{Phase, Status};

/// The content type of Prometheus' (OpenMetrics) text format.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("--http {addr}: {cause}; choose another port, or stop what listens there")]
pub struct BindError {
    addr: SocketAddr,
    cause: io::Error,
}

/// Listens on `addr`. Beyond loopback is allowed: what is served holds no data and no secret.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr)
        .await
        .map_err(|cause| BindError { addr, cause })
}

/// Serves until `end`, then lets open requests finish.
pub async fn serve(
    listener: TcpListener,
    status: Status,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, routes(status))
        .with_graceful_shutdown(end)
        .await
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
    let code = if view.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(view)).into_response()
}

async fn metrics(State(status): State<Status>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], status.prometheus()).into_response()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::position::{Offset, Position, ReplId};

    async fn start(status: &Status) -> (SocketAddr, oneshot::Sender<()>) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
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
    async fn a_port_that_is_taken_is_named() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = taken.local_addr().unwrap();
        let error = bind(addr).await.unwrap_err().to_string();
        assert!(error.contains(&format!("--http {addr}: ")), "{error}");
    }

    #[tokio::test]
    async fn it_stops_when_told() {
        let status = Status::new();
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        timeout(Duration::from_secs(10), serve(listener, status, async {}))
            .await
            .unwrap()
            .unwrap();
    }
}

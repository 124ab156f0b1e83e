//! Asks a running service how it is.

use std::time::Duration;

use axum::body::Body;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// It answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// 200 sources have some 400 KiB.
const LONGEST: usize = 16 << 20;

/// There is no answer, or none of a backfeed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{service} does not say how it is: {cause}. Is a service running, and does it serve its health there?"
)]
pub struct Unanswered {
    service: String,
    cause: String,
}

/// What `/readyz` of the service at `host:port` says, whether it is ready or not. The form `http://host:port` is taken too.
///
/// # Errors
/// [`Unanswered`], after 5 seconds at most.
pub async fn readyz(service: &str) -> Result<Value, Unanswered> {
    let authority = service.strip_prefix("http://").unwrap_or(service);
    let authority = authority.split('/').next().unwrap_or(authority);
    // As the address to serve at is written.
    let authority = &match authority.strip_prefix(':') {
        Some(port) => format!("127.0.0.1:{port}"),
        None => authority.to_owned(),
    };
    let answered = timeout(PATIENCE, ask(authority)).await;
    let late = || Err(format!("no answer within {} s", PATIENCE.as_secs()));
    answered
        .unwrap_or_else(|_| late())
        .map_err(|cause| Unanswered {
            service: service.to_owned(),
            cause,
        })
}

async fn ask(authority: &str) -> Result<Value, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(authority)
        .await
        .map_err(|error| told(&error))?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| told(&error))?;
    // It ends with the answer.
    tokio::spawn(connection);
    let request = Request::get("/readyz")
        .header("host", authority)
        .body(Body::empty())
        .map_err(|error| told(&error))?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| told(&error))?;
    let code = answer.status();
    let body = axum::body::to_bytes(Body::new(answer.into_body()), LONGEST).await;
    let body = body.map_err(|error| told(&error))?;
    match serde_json::from_slice::<Value>(&body) {
        Ok(value) if value.get("ready").is_some_and(Value::is_boolean) => Ok(value),
        _ => Err(format!("it answered {code}, and not as a backfeed does")),
    }
}

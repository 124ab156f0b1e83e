//! Feeding a target that was told to come.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::plan::Plan;
use super::progress::Progress;
use super::serve::{CaughtUp, Identity, ServeError, greet, offer};
use crate::archive::Archive;
use crate::proto::master::Credentials;

/// A target that was told to come tries each second; one that has not come by then cannot reach us.
const COME: Duration = Duration::from_secs(60);
/// Syncs that may break off before the restore is given up: a target whose disk is full breaks off every time.
const ATTEMPTS: usize = 3;
/// Connections that are no replica's which are put up with: probes of a network, health checks.
const STRANGERS: usize = 100;

/// Waits for the target and feeds it, anew if the link breaks.
pub(super) struct Feed<'a> {
    pub(super) socket: TcpListener,
    pub(super) announced: String,
    pub(super) credentials: Option<Credentials>,
    pub(super) archive: &'a Archive,
    pub(super) plan: &'a Plan,
    pub(super) identity: Identity,
    pub(super) progress: &'a dyn Progress,
}

impl Feed<'_> {
    pub(super) async fn run(&self) -> Result<CaughtUp<TcpStream>, ServeError> {
        let (mut broken, mut strangers) = (0usize, 0usize);
        let mut last = None;
        let mut deadline = come_by();
        loop {
            let accepted = timeout_at(deadline, self.socket.accept()).await;
            let Ok(Ok((stream, _))) = accepted else {
                return Err(last.unwrap_or_else(|| ServeError::NeverCame {
                    listen: self.announced.clone(),
                    seconds: COME.as_secs(),
                }));
            };
            // Without it, acknowledgements and the last bytes of the log would only be slower.
            let _ = stream.set_nodelay(true);
            let prepare = offer(self.archive, self.plan, self.identity);
            let served = match greet(stream, self.credentials.clone()).await {
                Ok(guest) => guest.serve(prepare, self.progress).await,
                Err(error) => Err(error),
            };
            match served {
                Ok(caught_up) => return Ok(caught_up),
                Err(error) if error.is_before_sync() => {
                    strangers = strangers.saturating_add(1);
                    if strangers >= STRANGERS {
                        return Err(error);
                    }
                }
                Err(error) => {
                    broken = broken.saturating_add(1);
                    if broken >= ATTEMPTS || !error.is_transient() {
                        return Err(error);
                    }
                    tracing::warn!(%error, "feeding the target broke off; it comes again");
                    deadline = come_by();
                    last = Some(error);
                }
            }
        }
    }
}

fn come_by() -> Instant {
    let now = Instant::now();
    now.checked_add(COME).unwrap_or(now)
}

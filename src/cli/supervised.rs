//! What every long-running verb has around it: health and metrics, SIGTERM, the grace time.

use std::future::Future;
use std::time::Duration;

use tokio::pin;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::progress_bar::EVERY;
use super::signals::Signals;
use super::{Exit, Failure, process_setup};
#[cfg(not(feature = "http"))]
use crate::config::not_built_in;
use crate::config::{HttpAddr, Size};
use crate::monitoring::logging;
use crate::monitoring::sources::Sources;
use crate::monitoring::status::{Phase, Status, StatusView};
#[cfg(feature = "http")]
use crate::service::http;

/// Becomes true on SIGTERM or SIGINT: store the rest, acknowledge it, and end.
pub(super) type Shutdown = watch::Receiver<bool>;

/// A service manager and the init of a container may both signal a process that is to end. Two signals within this time count as
/// one.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// What a process says of itself, of one source or of many.
pub(super) trait Report: Clone + Send + Sync + 'static {
    /// A line about each work that takes long.
    fn work(&self) -> Vec<String>;
    /// How many sources there are.
    fn sources(&self) -> usize;
    /// What was not stored.
    fn unstored(&self) -> String;
    /// It ends.
    fn stopped(&self);
    /// Answers requests.
    #[cfg(feature = "http")]
    fn serve(self, listener: tokio::net::TcpListener) -> impl Future<Output = ()> + Send;
}

impl Report for Status {
    fn work(&self) -> Vec<String> {
        let work = self.view().work.into_iter();
        work.map(|work| work.to_string()).collect()
    }

    fn sources(&self) -> usize {
        1
    }

    fn unstored(&self) -> String {
        unstored(&self.view())
    }

    fn stopped(&self) {
        self.phase(Phase::Stopped, "");
    }

    #[cfg(feature = "http")]
    async fn serve(self, listener: tokio::net::TcpListener) {
        http::serve(listener, self, std::future::pending()).await;
    }
}

impl Report for Sources {
    fn work(&self) -> Vec<String> {
        let sources = self.view().sources.into_iter();
        let lines = sources.flat_map(|(name, source)| {
            let work = source.status.work.into_iter();
            work.map(move |work| format!("{name}: {work}"))
        });
        lines.collect()
    }

    fn sources(&self) -> usize {
        self.expected()
    }

    fn unstored(&self) -> String {
        let view = self.view();
        let left = view.sources.iter().filter(|(_, source)| {
            source.status.phase != Phase::Stopped && source.status.lag_bytes != Some(0)
        });
        let left: Vec<String> = left
            .map(|(name, source)| format!("{name}: {}", unstored(&source.status)))
            .collect();
        match left.is_empty() {
            true => "everything was stored".to_owned(),
            false => left.join(", "),
        }
    }

    fn stopped(&self) {
        Self::stopped(self);
    }

    #[cfg(feature = "http")]
    async fn serve(self, listener: tokio::net::TcpListener) {
        http::serve_all(listener, self, std::future::pending()).await;
    }
}

fn unstored(view: &StatusView) -> String {
    match view.lag_bytes {
        Some(bytes) => format!("{} received were not stored", Size(bytes)),
        None => "nothing was stored yet".to_owned(),
    }
}

/// Runs `service` to its end, or to SIGTERM and then for `grace` at most. A second signal, a second later or more, ends it
/// at once.
pub(super) async fn supervise<S, F>(
    http_addr: Option<HttpAddr>,
    grace: Duration,
    service: S,
) -> Result<(), Failure>
where
    S: FnOnce(Status, Shutdown) -> F,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    supervise_as(Status::new(), http_addr, grace, service).await
}

/// The same of a process that says something else of itself.
pub(super) async fn supervise_as<R, S, F>(
    status: R,
    http_addr: Option<HttpAddr>,
    grace: Duration,
    service: S,
) -> Result<(), Failure>
where
    R: Report,
    S: FnOnce(R, Shutdown) -> F,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let mut signals = Signals::new()?;
    if let Some(warning) = process_setup::warning(status.sources()) {
        tracing::warn!("{warning}");
    }
    if let Some(addr) = http_addr {
        serve_http(&addr, &status).await?;
    }
    // Ends with the process too.
    tokio::spawn(log_work(status.clone()));
    let (stop, stopped) = watch::channel(false);
    // It runs on a worker, which waits for the sockets too. On the main thread, each chunk of the feed would cost a switch of
    // threads. Dropping the set ends the service.
    let mut running = JoinSet::new();
    running.spawn(service(status.clone(), stopped));
    let outcome = until_done(
        async {
            match running.join_next().await {
                Some(Ok(outcome)) => outcome,
                Some(Err(error)) => Err(Failure::new(Exit::Error, error)),
                None => Ok(()),
            }
        },
        &status,
        grace,
        async || signals.next().await,
        &stop,
    )
    .await;
    status.stopped();
    outcome
}

#[cfg(feature = "http")]
async fn serve_http(addr: &HttpAddr, status: &impl Report) -> Result<(), Failure> {
    let listener = http::bind(addr).await?;
    tracing::info!(%addr, "serving /healthz, /readyz and /metrics");
    // Ends with the process: it answers to the very last.
    tokio::spawn(status.clone().serve(listener));
    Ok(())
}

#[cfg(not(feature = "http"))]
async fn serve_http(addr: &HttpAddr, _: &impl Report) -> Result<(), Failure> {
    let missing = not_built_in("/healthz, /readyz and /metrics", "http");
    Err(Failure::new(
        Exit::Usage,
        format_args!("--http {addr}: {missing}, or leave out --http"),
    ))
}

/// A line about each work that takes long, every 10 s.
async fn log_work(status: impl Report) {
    loop {
        sleep(EVERY).await;
        for work in status.work() {
            tracing::info!(target: logging::PROGRESS, "{work}");
        }
    }
}

async fn until_done(
    service: impl Future<Output = Result<(), Failure>>,
    status: &impl Report,
    grace: Duration,
    mut signal: impl AsyncFnMut() -> &'static str,
    stop: &watch::Sender<bool>,
) -> Result<(), Failure> {
    pin!(service);
    let name = tokio::select! {
        outcome = &mut service => return outcome,
        name = signal() => name,
    };
    tracing::info!("{name}: storing the rest, for {grace:?} at most");
    stop.send_replace(true);
    let signalled = Instant::now();
    let mut again = async || loop {
        let name = signal().await;
        if signalled.elapsed() >= SAME_SIGNAL {
            return name;
        }
    };
    let cut_short = tokio::select! {
        outcome = &mut service => return outcome,
        () = sleep(grace) => format!("the grace time of {grace:?} (--grace) is over"),
        name = again() => format!("a second signal ({name}) ends it at once"),
    };
    let unstored = status.unstored();
    Err(Failure::new(
        Exit::Error,
        format_args!(
            "{cut_short}: {unstored}; what was acknowledged is stored, the rest is sent again by the master"
        ),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::position::{Offset, Position, ReplId};

    const LONG: Duration = Duration::from_secs(60);

    async fn never() -> &'static str {
        std::future::pending().await
    }

    #[tokio::test]
    async fn a_service_that_ends_by_itself_gives_the_outcome() {
        let (stop, _stopped) = watch::channel(false);
        let failure = Failure::new(Exit::Superseded, "a seal");
        let service = async { Err(failure.clone()) };
        let outcome = until_done(service, &Status::new(), LONG, never, &stop).await;
        assert_eq!(outcome.unwrap_err(), failure);
    }

    #[tokio::test]
    async fn a_signal_lets_the_service_end_well() {
        let (stop, mut stopped) = watch::channel(false);
        let service = async {
            stopped.wait_for(|stop| *stop).await.unwrap();
            Ok(())
        };
        let mut signals = vec!["SIGTERM"].into_iter();
        let signal = async || match signals.next() {
            Some(name) => name,
            None => never().await,
        };
        until_done(service, &Status::new(), LONG, signal, &stop)
            .await
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_grace_time_or_a_second_signal_it_ends_and_says_what_is_not_stored() {
        let status = Status::new();
        let history = ReplId::from_random([1; 20]);
        status.stored(
            Position {
                history,
                offset: Offset(10),
            },
            0,
        );
        status.received(
            Position {
                history,
                offset: Offset(15),
            },
            0,
        );
        let (stop, _stopped) = watch::channel(false);
        let mut signals = vec!["SIGTERM"].into_iter();
        let signal = async || match signals.next() {
            Some(name) => name,
            None => never().await,
        };
        let hangs = || std::future::pending::<Result<(), Failure>>();
        let grace = Duration::from_millis(20);
        let late = until_done(hangs(), &status, grace, signal, &stop)
            .await
            .unwrap_err();
        assert_eq!(late.exit(), Exit::Error);
        assert!(
            late.to_string()
                .contains("(--grace) is over: 5 bytes received"),
            "{late}"
        );

        let begun = Instant::now();
        let again = async || {
            sleep(Duration::from_millis(300)).await;
            "SIGINT"
        };
        let twice = until_done(hangs(), &Status::new(), LONG, again, &stop)
            .await
            .unwrap_err();
        // The first, some within a second of it, and the one after that.
        assert_eq!(begun.elapsed(), Duration::from_millis(1500));
        assert!(
            twice.to_string().contains("second signal (SIGINT)"),
            "{twice}"
        );
    }
}

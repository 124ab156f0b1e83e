//! The link that carries the feed of a full sync.
//!
//! A server counts a replica for `WAIT` as soon as it has sent the whole snapshot, whatever the replica acknowledges.
//! The reason: the snapshot holds all earlier writes, and a replica of Redis then has them in memory. Our snapshot is
//! not stored at that moment. So the snapshot comes by a link of its own (`REPLCONF rdb-only`), which the server never
//! counts, and which ends with the snapshot. The feed comes by a second link, which is made when the snapshot is
//! stored. Until then the server's backlog holds the feed.
//!
//! ```text
//!  first:  PSYNC ? -1 ──▶ +FULLRESYNC id N ──▶ RDB ──▶ closed     stored
//!  second:                                                    ───▶ PSYNC id N+1 ──▶ +CONTINUE ──▶ feed
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::SessionEnd;
use super::session::out_of_place;
use crate::config::Source;
use crate::link::control::Control;
use crate::link::replication_info::{Facts, Role};
use crate::link::{Link, LinkError};
use crate::wire::position::{Offset, Position, ReplId};
use crate::wire::psync::replica::Event;

/// One half of the backlog may fill before the feed is taken without waiting longer. The other half is for what is
/// written while we look and connect. If it overflows, all data would have to be sent again.
const BACKLOG_SHARE: u64 = 2;
/// Between two looks at the backlog.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// A link that is not read yet says once a second that it is alive, as replicas do.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// How often the second link is tried, and how long between two tries: a server may have no connection free.
const TRIES: u32 = 5;
const TRY_PAUSE: Duration = Duration::from_millis(200);

/// Does a full sync of this server use two links? No, if the server is a replica (it counts for no `WAIT`), if it does
/// not say what it is (its backlog cannot be asked for), or if it is a KeyDB (it replicates in another way).
pub(super) fn takes_two(facts: Option<&Facts>) -> bool {
    facts.is_some_and(|facts| {
        facts.role == Role::Master
            && facts.backlog_size.is_some()
            && matches!(facts.flavour.as_str(), "redis" | "valkey")
    })
}

/// The link of the feed: there, or to be made.
pub(super) struct FeedLink {
    state: State,
    wanted: Arc<Notify>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Link, SessionEnd>> + Send>>;

enum State {
    Here(Box<Link>),
    Coming(Connecting),
}

impl FeedLink {
    /// One that is there.
    pub(super) fn here(link: Link) -> Self {
        Self {
            state: State::Here(Box::new(link)),
            wanted: Arc::default(),
        }
    }

    /// A link that continues after the snapshot at `at`. It is made when it is wanted, or when the backlog fills.
    pub(super) fn coming(source: Source, version: Option<&'static str>, at: Position) -> Self {
        let wanted = Arc::<Notify>::default();
        let connecting = connect(source, version, at, wanted.clone());
        Self {
            state: State::Coming(Box::pin(connecting)),
            wanted,
        }
    }

    /// None: the snapshot is all that is asked for.
    pub(super) fn never() -> Self {
        Self {
            state: State::Coming(Box::pin(std::future::pending())),
            wanted: Arc::default(),
        }
    }

    /// The snapshot is stored: nothing speaks against the feed any more.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    pub(super) fn is_here(&self) -> bool {
        matches!(self.state, State::Here(_))
    }

    /// The next event. None: the link has just been made. The future may be dropped without losing anything.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, SessionEnd> {
        match &mut self.state {
            State::Here(link) => Ok(Some(link.next().await?)),
            State::Coming(connecting) => {
                let link = connecting.await;
                // It has ended, and must not be polled again.
                self.state = State::Coming(Box::pin(std::future::pending()));
                self.state = State::Here(Box::new(link?));
                Ok(None)
            }
        }
    }

    /// Says how far the store has come, if there is a link.
    pub(super) async fn ack(&mut self, offset: Offset) -> Result<(), LinkError> {
        match &mut self.state {
            State::Here(link) => link.ack(offset).await,
            State::Coming(_) => Ok(()),
        }
    }

    /// Makes the link when the backlog fills, and keeps it alive without reading it, because the snapshot is still
    /// being received. Ends only with an error.
    pub(super) async fn wait_unread(&mut self) -> SessionEnd {
        loop {
            let done = match &mut self.state {
                State::Here(link) => {
                    sleep(KEEPALIVE).await;
                    link.keepalive().await.map_err(SessionEnd::from)
                }
                State::Coming(_) => self.next().await.map(|_| ()),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }
}

async fn connect(
    source: Source,
    version: Option<&'static str>,
    at: Position,
    wanted: Arc<Notify>,
) -> Result<Link, SessionEnd> {
    tokio::select! {
        biased;
        () = wanted.notified() => {}
        fills = backlog_fills(&source, at) => {
            fills?;
            tracing::warn!(
                snapshot = %at,
                "half of the server's backlog was written before the snapshot was stored: taking the feed now. Until \
                 the snapshot is stored, WAIT counts backfeed for clients that have not written since the full sync \
                 began. A larger repl-backlog-size avoids this"
            );
        }
    }
    check_backlog(&source, at).await?;
    let mut tries = TRIES;
    loop {
        tries = tries.saturating_sub(1);
        match begin(&source, version, at).await {
            Err(SessionEnd::Link(error)) if !error.is_permanent() && tries > 0 => {
                tracing::debug!(%error, "connecting again for the feed");
                sleep(TRY_PAUSE).await;
            }
            done => return done,
        }
    }
}

async fn begin(
    source: &Source,
    version: Option<&'static str>,
    at: Position,
) -> Result<Link, SessionEnd> {
    let mut link = Link::connect(source, version, Some(at)).await?;
    match link.next().await? {
        Event::Continue(id) if id.is_none_or(|id| id == at.history) => Ok(link),
        Event::Continue(Some(id)) => Err(changed(at, id)),
        Event::FullResync(_) => Err(SessionEnd::BacklogOverrun { at }),
        event => Err(out_of_place(&event)),
    }
}

/// The state of the backlog that holds the feed meanwhile.
#[derive(Debug, PartialEq, Eq)]
enum Backlog {
    Lasts,
    /// Half full, or not known.
    Fills,
}

/// Returns when the backlog has filled so far that the feed has to be taken.
async fn backlog_fills(source: &Source, at: Position) -> Result<(), SessionEnd> {
    let Ok(mut control) = Control::connect(source).await else {
        return Ok(());
    };
    while look(&mut control, at).await? == Backlog::Lasts {
        sleep(LOOK_PAUSE).await;
    }
    Ok(())
}

/// Asked before the server is asked to continue: if it could not continue, it would begin a full sync, with a fork.
async fn check_backlog(source: &Source, at: Position) -> Result<(), SessionEnd> {
    let Ok(mut control) = Control::connect(source).await else {
        return Ok(());
    };
    match control.replication_facts().await {
        Ok(facts) => check(&facts, at),
        Err(_) => Ok(()),
    }
}

/// A server that says nothing of its backlog may have it all.
fn check(facts: &Facts, at: Position) -> Result<(), SessionEnd> {
    match facts.replid {
        // It was promoted, or it is another one. The next session goes by what the store has of its id.
        Some(id) if id != at.history => Err(changed(at, id)),
        _ if facts.backlog_first.is_some() && !facts.may_continue(at) => {
            Err(SessionEnd::BacklogOverrun { at })
        }
        _ => Ok(()),
    }
}

fn changed(at: Position, id: ReplId) -> SessionEnd {
    SessionEnd::StartOver(format!(
        "during the full sync of history {}, the server changed to the id {id}",
        at.history
    ))
}

async fn look(control: &mut Control, at: Position) -> Result<Backlog, SessionEnd> {
    let Ok(facts) = control.replication_facts().await else {
        return Ok(Backlog::Fills);
    };
    let (Some(end), Some(size)) = (facts.offset, facts.backlog_size) else {
        return Ok(Backlog::Fills);
    };
    if facts.replid != Some(at.history) || end < at.offset {
        return Ok(Backlog::Fills);
    }
    if !facts.would_continue(at) {
        return Err(SessionEnd::BacklogOverrun { at });
    }
    if end.since(at.offset) >= size / BACKLOG_SHARE {
        return Ok(Backlog::Fills);
    }
    Ok(Backlog::Lasts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    const AT: u64 = 100;

    fn check_of(replid: u8, replid2: u8, shared: u64, backlog: &str) -> Result<(), SessionEnd> {
        let [replid, replid2, own] = [replid, replid2, 1].map(|id| ReplId::from_random([id; 20]));
        let facts = Facts::parse(&format!(
            "role:master\nmaster_replid:{replid}\nmaster_replid2:{replid2}\nsecond_repl_offset:{}\n\
             master_repl_offset:150\n{backlog}",
            shared + 1
        ));
        let at = Position {
            history: own,
            offset: Offset(AT),
        };
        check(&facts, at)
    }

    #[test]
    fn a_server_that_could_not_continue_is_not_asked_for_its_feed() {
        let has = |first: u64| {
            format!(
                "repl_backlog_active:1\nrepl_backlog_size:1000\nrepl_backlog_first_byte_offset:{first}\n"
            )
        };
        check_of(1, 9, 50, &has(AT + 1)).unwrap();
        // It says nothing of its backlog.
        check_of(1, 9, 50, "").unwrap();
        let overrun = check_of(1, 9, 50, &has(AT + 2)).unwrap_err();
        assert!(matches!(overrun, SessionEnd::BacklogOverrun { .. }));
        // Promoted, with and without the bytes that follow the snapshot.
        for first in [AT + 1, AT + 40] {
            let changed = check_of(2, 1, 140, &has(first)).unwrap_err();
            assert!(matches!(changed, SessionEnd::StartOver(_)), "{changed}");
        }
    }
}

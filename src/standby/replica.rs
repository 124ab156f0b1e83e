//! One replica: what it is given first, and then the log as it comes.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, sleep, timeout};

use super::line::{Answer, Line};
use super::tail::Tail;
use super::view::StandbyStatus;
use crate::archive::{Archive, ArchiveError, ChainItem, RawStream};
use crate::config::ServeLog;
use crate::link::Stream;
use crate::recovery::{self, BadBases, Count, RecoveryTarget};
use crate::restore::{
    Following, Identity, RestoreError, ServeError, Serving, Start, WaitingReplica, writers,
};
use crate::wire::position::{Offset, ReplId};

/// A replica that has more than the store waits this long until that is stored. Then it gets everything anew.
const CATCH_UP: Duration = Duration::from_secs(20);

/// From the second time on that a replica leaves, its snapshots are so far apart, and then twice as far.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Replicas that are remembered because they have left.
const MOST_LEFT: usize = 1024;

/// What all replicas share.
pub(super) struct Service {
    pub(super) archive: Archive,
    pub(super) tail: Arc<Tail>,
    pub(super) status: StandbyStatus,
    pub(super) memory: usize,
    pub(super) snapshots: Semaphore,
    pub(super) late: Arc<Semaphore>,
    /// How often in a row a replica left before it had what it was given.
    pub(super) left: Mutex<BTreeMap<String, u32>>,
}

impl Service {
    /// Serves it until it leaves, or must come again.
    pub(super) async fn serve(&self, waiting: WaitingReplica<Stream>) {
        let addr = waiting
            .announced()
            .map_or_else(|| "unknown".to_owned(), |addr| addr.to_string());
        tracing::info!(replica = addr, "a replica asks for its data");
        let mut has_acked = false;
        let ended = self.follow(waiting, &addr, &mut has_acked).await;
        let is_left = ended.is_err() && !has_acked;
        match is_left {
            true => self.leaves(&addr),
            false => drop(self.left().remove(&addr)),
        }
        match ended {
            Err(error) if is_left => tracing::warn!(
                replica = addr, %error,
                "the replica left before it had what it was given. Its own log says why: a server that is older than the source \
                 does not load its snapshot. Each time, it is given the next one after a longer pause"
            ),
            Ok(why) => tracing::info!(replica = addr, "the replica is to come again: {why}"),
            Err(ServeError::Closed(_)) => tracing::info!(replica = addr, "the replica has left"),
            Err(error) => {
                tracing::warn!(replica = addr, %error, "the replica is not served any more")
            }
        }
    }

    async fn follow(
        &self,
        waiting: WaitingReplica<Stream>,
        addr: &str,
        has_acked: &mut bool,
    ) -> Result<&'static str, ServeError> {
        let connected = self.status.connected(addr.to_owned());
        let (claim, takes_marks) = (waiting.claim(), waiting.takes_marks());
        let mut tip = None;
        let mut permit = None;
        let prepare = async {
            let (line, start, held) = self.prepare(addr, claim, takes_marks).await?;
            tip = Some(line.tip());
            permit = held;
            Ok(start)
        };
        let mut following = waiting.follow(prepare, &()).await?;
        drop(permit);
        // It was set before anything was sent.
        let Some(tip) = tip else {
            return Ok("nothing is followed");
        };
        connected.follows(following.sent(), !is_resumed(claim, following.sent()));
        let mut late: Option<Late> = None;
        let mut lines = self.tail.lines();
        loop {
            let Some(line) = lines.borrow_and_update().clone() else {
                return Ok("nothing is followed");
            };
            let at = following.sent();
            connected.has(at, following.acked());
            *has_acked |= following.acked().is_some_and(|acked| acked > Offset(0));
            // Of a history that another one goes on from, it gets what both share.
            let Some(left) = line.left(tip) else {
                return Ok("its history is not the latest any more");
            };
            let upto = line.end.min(left);
            if at > upto && left < at {
                return Ok("its history is not the latest any more");
            }
            if at < upto {
                self.send(&mut following, &line, upto, &mut late).await?;
                continue;
            }
            late = None;
            if line.tip() != tip {
                return Ok("another history goes on from its one");
            }
            tokio::select! {
                biased;
                heard = following.listen() => heard?,
                changed = lines.changed() => if changed.is_err() {
                    return Ok("the standby ends");
                },
            }
        }
    }

    /// The next bytes: those in memory, or else those in the store.
    async fn send(
        &self,
        following: &mut Following<Stream>,
        line: &Line,
        upto: Offset,
        late: &mut Option<Late>,
    ) -> Result<(), ServeError> {
        let at = following.sent();
        if let Some(bytes) = self.tail.read(line.tip(), at, upto) {
            *late = None;
            return following.send(&bytes).await;
        }
        let mut reading = match late.take() {
            Some(reading) => reading,
            None => Late {
                permit: self.turn_of_late(following).await?,
                bytes: stored(&self.archive, line, at, upto),
                upto,
            },
        };
        match reading.bytes.next().await {
            Some(Ok(bytes)) => {
                *late = Some(reading);
                following.send(&bytes).await
            }
            Some(Err(error)) => Err(content(error)),
            // More may have been stored since it began.
            None if at >= reading.upto => Ok(()),
            None => Err(content(ArchiveError::Missing {
                object: format!("the log after offset {at}"),
            })),
        }
    }

    /// Waits for its turn, and listens meanwhile: it may leave.
    async fn turn_of_late(
        &self,
        following: &mut Following<Stream>,
    ) -> Result<Option<OwnedSemaphorePermit>, ServeError> {
        let mut turn = pin!(Arc::clone(&self.late).acquire_owned());
        loop {
            tokio::select! {
                biased;
                permit = &mut turn => return Ok(permit.ok()),
                heard = following.listen() => heard?,
            }
        }
    }

    /// What it gets first. A permit stands for what a snapshot takes.
    async fn prepare(
        &self,
        addr: &str,
        claim: Option<(ReplId, Offset)>,
        takes_marks: bool,
    ) -> Result<(Arc<Line>, Start, Option<tokio::sync::SemaphorePermit<'_>>), RestoreError> {
        let mut lines = self.tail.lines();
        let known = lines.wait_for(Option::is_some).await;
        let known = known.ok().and_then(|line| line.clone());
        let Some(mut line) = known else {
            // The tail lasts as long as this.
            return std::future::pending().await;
        };
        if let Answer::Ahead(at) = line.answer(claim) {
            let reached = lines.wait_for(|line| {
                let answer = line.as_ref().map(|line| line.answer(claim));
                !matches!(answer, Some(Answer::Ahead(_)))
            });
            let reached = timeout(CATCH_UP, reached).await;
            match reached {
                Ok(Ok(now)) => line = now.clone().unwrap_or(line),
                _ => tracing::warn!(
                    at = %at, stored = %line.end,
                    "a replica has more than the standby may give, and that is not stored: it is given what is stored"
                ),
            }
        }
        if let Answer::Resume(at) = line.answer(claim)
            && self.has(&line, at).await?
        {
            let id = line.said();
            return Ok((line, Start::Resume { id, at }, None));
        }
        let times = self.left().get(addr).copied().unwrap_or(0);
        sleep(pause_after(times)).await;
        let permit = self.snapshots.acquire().await.ok();
        // Others may have taken their time.
        let line = self.tail.line().unwrap_or(line);
        let offer = self.everything(&line, takes_marks).await?;
        Ok((line, Start::Full(Box::new(offer)), permit))
    }

    fn left(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaves(&self, addr: &str) {
        let mut left = self.left();
        if left.len() >= MOST_LEFT && !left.contains_key(addr) {
            left.clear();
        }
        let times = left.entry(addr.to_owned()).or_default();
        *times = times.saturating_add(1);
    }

    /// Is the log after this offset there, up to the end?
    async fn has(&self, line: &Line, at: Offset) -> Result<bool, RestoreError> {
        if at >= line.end || self.tail.read(line.tip(), at, line.end).is_some() {
            return Ok(true);
        }
        let mut bytes = stored(&self.archive, line, at, line.end);
        match bytes.next().await {
            Some(Ok(_)) => Ok(true),
            Some(Err(error)) if error.is_transient() => Err(error.into()),
            Some(Err(_)) | None => Ok(false),
        }
    }

    async fn everything(
        &self,
        line: &Line,
        takes_marks: bool,
    ) -> Result<crate::restore::Offer, RestoreError> {
        let (tip, upto) = (line.tip(), RecoveryTarget::Offset(line.end.0));
        let (catalog, history) = recovery::look(&self.archive, Some(tip), None, upto).await?;
        let plan = recovery::plan(&self.archive, &catalog, history, upto, &BadBases::new()).await?;
        // A damaged snapshot is found while it is read. Then an older one leads to the same point.
        let (plan, _) = recovery::sound(&self.archive, plan, &()).await?;
        let writers = writers(&catalog, &plan);
        let mut serving =
            Serving::new(&self.archive, ServeLog::Auto, self.memory).to(None, &writers);
        let follow = Identity::Follow {
            id: line.said(),
            history: tip,
        };
        let mut count = Count::unknown("a replica of a standby is not counted".to_owned());
        serving.offer(&plan, follow, takes_marks, &mut count).await
    }
}

/// Before the next snapshot for a replica that has left so often. Newlines keep it waiting.
fn pause_after(times: u32) -> Duration {
    let doubled = times.saturating_sub(1).min(6);
    match times {
        0 | 1 => Duration::ZERO,
        _ => PAUSE_FIRST.saturating_mul(1 << doubled).min(PAUSE_MAX),
    }
}

/// A replica that is far behind, and reads from the store.
struct Late {
    bytes: RawStream,
    /// The end of that.
    upto: Offset,
    #[expect(dead_code)] // it counts while it is held
    permit: Option<OwnedSemaphorePermit>,
}

fn is_resumed(claim: Option<(ReplId, Offset)>, sent: Offset) -> bool {
    claim.is_some_and(|(_, at)| at == sent)
}

fn content(error: ArchiveError) -> ServeError {
    ServeError::Content(Box::new(error.into()))
}

/// The bytes of a line after `at` and up to `upto`, from the store.
pub(super) fn stored(archive: &Archive, line: &Line, at: Offset, upto: Offset) -> RawStream {
    let mut parts = Vec::new();
    let mut from = at;
    while from < upto {
        let (history, left) = line.after(from);
        let end = left.min(upto);
        if end <= from {
            break;
        }
        parts.push((history, from, end));
        from = end;
    }
    let archive = archive.clone();
    let parts = stream::iter(parts).map(Ok::<_, ArchiveError>);
    parts
        .and_then(move |(history, from, upto)| {
            let archive = archive.clone();
            async move { part(archive, history, from, upto).await }
        })
        .try_flatten()
        .boxed()
}

/// The same of one history.
async fn part(
    archive: Archive,
    history: ReplId,
    from: Offset,
    upto: Offset,
) -> Result<RawStream, ArchiveError> {
    let catalog = archive.only(history).await?;
    let chain: BoxStream<'static, _> = archive.chain(&catalog, history, from);
    let bytes = stream::try_unfold((chain, from), move |(mut chain, at)| {
        let archive = archive.clone();
        async move {
            if at >= upto {
                return Ok(None);
            }
            let missing = || ArchiveError::Missing {
                object: format!("the log of history {history} after offset {at}"),
            };
            match chain.try_next().await? {
                Some(ChainItem::Segment(header)) if !header.is_gap() && header.meta.end > at => {
                    let end = header.meta.end.min(upto);
                    let bytes = archive.read_part(&header, at, end).await?;
                    Ok(Some((bytes, (chain, end))))
                }
                Some(_) | None => Err(missing()),
            }
        }
    });
    Ok(bytes.try_flatten().boxed())
}

//! The master of one target: sends a snapshot, then the log (unless the snapshot was made of it), then nothing until the target
//! has been promoted.
//!
//! Under the history's own id, the offset of a target must stay exactly that of the log. So we send not one byte that
//! the log does not hold: no `PING`, and no newline after the payload (the target counts both).

pub(crate) mod error;
pub mod listener;
pub(crate) mod password_guesses;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::error::RestoreError;
use super::master::error::{Phase, ServeError};
use crate::archive::Archive;
use crate::rebuild::{Counts, RebuildError};
use crate::recovery::content::{Content, LogForm, log, snapshot};
use crate::recovery::plan::Plan;
use crate::recovery::progress::{Progress, Stage};
use crate::runtime;
use crate::runtime::pipe::Interrupted;
use crate::wire::position::{Offset, ReplId};
use crate::wire::psync::master::{Credentials, Denial, Master, MasterEvent};
use crate::wire::psync::transfer::{Framing, MARK_LEN};
use crate::wire::resp::encode_command;

/// A target that neither takes nor sends a byte for this long hangs. While it loads, it sends a newline each second.
pub(super) const STALL: Duration = Duration::from_secs(120);
/// A connection that does not ask for a sync within this time is no replica.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(30);
/// Interval of the newlines while the snapshot is prepared. Targets wait `repl-timeout`, 60 s by default.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Interval of the `PING`s to a fork that waits to be promoted.
const PING: Duration = Duration::from_secs(10);
/// Bytes taken from the target at once: acknowledgements are 40 bytes.
const READ: usize = 4 * 1024;

/// Under which id a target is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The history's own id: it is continued from here. The plan must end at its tip, and its log must be sealed.
    Continue {
        /// The history.
        id: ReplId,
    },
    /// A fresh one: what grows from here is a branch of its own.
    Fork {
        /// Random.
        id: ReplId,
    },
    /// The history's own id, for a replica that stays one and gets what the history grows by. The plan may end before its tip.
    Follow {
        /// The id of the server that wrote it.
        id: ReplId,
        /// The history, by its key in the store.
        history: ReplId,
    },
}

/// What a target gets.
pub struct Offer {
    /// In `+FULLRESYNC`.
    pub id: ReplId,
    /// In `+FULLRESYNC`: the offset of the snapshot.
    pub offset: Offset,
    /// Snapshot and log.
    pub payload: Payload,
    /// `REPLCONF GETACK` and `PING` may follow.
    pub may_add: bool,
}

/// A snapshot, and what follows it.
pub enum Payload {
    /// A stored snapshot, and the log after it.
    Replayed {
        /// Bytes of the snapshot.
        length: u64,
        /// The snapshot.
        snapshot: Content,
        /// Bytes of the log, only for the progress.
        log_bytes: u64,
        /// The log.
        log: Content,
        /// The offset at which the log must end. Unknown when the log is rewritten while it is sent.
        end: Option<Offset>,
        /// Commands of the log that every server refuses.
        refused: u64,
    },
    /// A snapshot that is made of both while it is sent. Nothing follows it. Only for a target that
    /// [takes marks](WaitingReplica::takes_marks).
    Rebuilt {
        /// About so many bytes, only for the progress.
        about: u64,
        /// The snapshot.
        snapshot: BoxStream<'static, Result<Bytes, RebuildError>>,
        /// What it holds, known at its end.
        counts: oneshot::Receiver<Counts>,
    },
}

/// What to give a target for `plan` under `identity`, if its log is replayed.
///
/// # Errors
/// [`RestoreError::CannotContinue`] when the history's own id may not be used; whatever the archive says.
pub async fn offer(
    archive: &Archive,
    plan: &Plan,
    identity: Identity,
) -> Result<Offer, RestoreError> {
    match identity {
        Identity::Continue { id } => may_continue(plan, id, false)?,
        Identity::Follow { history, .. } => may_follow(plan, history, false)?,
        Identity::Fork { .. } => {}
    }
    let (id, form, may_add) = match identity {
        Identity::Continue { id } | Identity::Follow { id, .. } => (id, LogForm::Raw, false),
        Identity::Fork { id } => (id, LogForm::Replay, true),
    };
    let (length, snapshot) = snapshot(archive, &plan.base, may_add).await?;
    Ok(Offer {
        id,
        offset: plan.base.offset,
        payload: Payload::Replayed {
            length,
            snapshot,
            log_bytes: plan.bytes_log(),
            log: log(archive, plan, form),
            end: (form == LogForm::Raw).then_some(plan.end.offset),
            refused: plan.refused,
        },
        may_add,
    })
}

/// The rule of the forks: only from the last stored point, and never with a log that would have to be rewritten. If it was applied to
/// the snapshot (`rebuilt`), it is not replayed.
pub(super) fn may_continue(plan: &Plan, id: ReplId, rebuilt: bool) -> Result<(), RestoreError> {
    let reason = if plan.relative_ttls && !rebuilt {
        "its log holds relative expiries. They must be rewritten for a replay, and then the offsets change"
    } else if plan.end_position.history != id {
        "the point to restore belongs to an earlier history"
    } else if !plan.is_tip_end {
        "the point to restore is not the last one that is stored"
    } else {
        return Ok(());
    };
    Err(RestoreError::CannotContinue {
        history: id,
        reason: reason.to_owned(),
    })
}

/// The rule of those that follow: what they get has the offsets of the history.
pub(super) fn may_follow(plan: &Plan, history: ReplId, rebuilt: bool) -> Result<(), RestoreError> {
    if plan.relative_ttls && !rebuilt {
        return Err(RestoreError::CannotContinue {
            history,
            reason: "its log holds relative expiries. They must be rewritten for a replay, and then the offsets change"
                .to_owned(),
        });
    }
    Ok(())
}

/// Answers a connection until it asks for a sync.
///
/// # Errors
/// [`ServeError`]: it is no replica, or is gone.
pub async fn handshake<S>(
    stream: S,
    credentials: Option<Credentials>,
) -> Result<WaitingReplica<S>, ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut link = Link::new(stream, Master::new(credentials));
    link.handshake().await?;
    link.phase = Phase::Preparing;
    Ok(WaitingReplica { link, peer: None })
}

/// A target that has asked for a sync.
pub struct WaitingReplica<S> {
    link: Link<S>,
    /// Where it connects from, if the listener knows.
    pub(crate) peer: Option<SocketAddr>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WaitingReplica<S> {
    /// The history that it says it has, and up to which offset. None for a target that has nothing to continue.
    #[must_use]
    pub fn claim(&self) -> Option<(ReplId, Offset)> {
        self.link.claim
    }

    /// May its snapshot be of a length that is not known when it begins?
    #[must_use]
    pub fn takes_marks(&self) -> bool {
        self.link.master.takes_marks()
    }

    /// Serves it until it has acknowledged everything. Newlines keep it waiting while `prepare` runs.
    ///
    /// # Errors
    /// [`ServeError`]. The target then comes again by itself, and can be served again.
    pub async fn serve(
        self,
        prepare: impl Future<Output = Result<Offer, RestoreError>>,
        progress: &dyn Progress,
    ) -> Result<CaughtUp<S>, ServeError> {
        let mut link = self.link;
        progress.stage(Stage::Preparing, None);
        let offer = link.keep_alive(prepare).await?.map_err(Box::new)?;
        let may_add = offer.may_add;
        let Sent { end, held, refused } = link.send_offer(offer, progress).await?;
        link.phase = Phase::Applying;
        progress.stage(Stage::Applying, None);
        // Answered as soon as it is read; by itself the target acknowledges once a second. Behind a mark nothing may be sent before
        // the first acknowledgement, which comes at once.
        let mut asks = Vec::new();
        if may_add && held.is_none() {
            encode_command(&[b"REPLCONF", b"GETACK", b"*"], &mut asks);
        }
        link.send(&asks).await?;
        link.wait_for(end, end.plus(asks.len() as u64)).await?;
        link.phase = Phase::CaughtUp;
        Ok(CaughtUp {
            link,
            end,
            held,
            refused,
            may_add,
        })
    }

    /// Where it listens itself, as it says, at the address that it connects from.
    #[must_use]
    pub fn announced(&self) -> Option<SocketAddr> {
        let peer = self.peer?;
        let port = self.link.master.listening_port();
        Some(SocketAddr::new(peer.ip(), port.unwrap_or(peer.port())))
    }

    /// Lets it follow: with a snapshot and the log after it, or from where it is. Newlines keep it waiting while `prepare` runs.
    ///
    /// # Errors
    /// [`ServeError`]. The target then comes again by itself.
    pub async fn follow(
        self,
        prepare: impl Future<Output = Result<Start, RestoreError>>,
        progress: &dyn Progress,
    ) -> Result<Following<S>, ServeError> {
        let mut link = self.link;
        progress.stage(Stage::Preparing, None);
        let sent = match link.keep_alive(prepare).await?.map_err(Box::new)? {
            Start::Resume { id, at } => {
                let line = link.master.resume(id);
                link.send(&line).await?;
                at
            }
            Start::Full(offer) => {
                let Sent { end, held, .. } = link.send_offer(*offer, progress).await?;
                if held.is_some() {
                    // Behind a mark nothing may be sent before the first acknowledgement.
                    link.phase = Phase::Applying;
                    progress.stage(Stage::Applying, None);
                    link.wait_for(end, end).await?;
                }
                end
            }
        };
        link.phase = Phase::Log;
        Ok(Following { link, sent })
    }
}

/// How a replica begins to follow.
pub enum Start {
    /// With everything.
    Full(Box<Offer>),
    /// From what it has.
    Resume {
        /// The id that it is to have from now on.
        id: ReplId,
        /// The last byte that it has.
        at: Offset,
    },
}

/// A replica that gets bytes of a log as they come. It is sent nothing else, so that its offset stays that of the log.
pub struct Following<S> {
    link: Link<S>,
    sent: Offset,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Following<S> {
    /// The last byte that it was sent.
    #[must_use]
    pub fn sent(&self) -> Offset {
        self.sent
    }

    /// The last offset that it has acknowledged on this connection.
    #[must_use]
    pub fn acked(&self) -> Option<Offset> {
        self.link.acked
    }

    /// Sends it the next bytes.
    ///
    /// # Errors
    /// [`ServeError`]: it is gone, or has taken nothing for two minutes.
    pub async fn send(&mut self, bytes: &Bytes) -> Result<(), ServeError> {
        self.link.send(bytes).await?;
        self.sent = self.sent.plus(bytes.len() as u64);
        Ok(())
    }

    /// Takes in what it says next: an acknowledgement each second. May be dropped while it waits.
    ///
    /// # Errors
    /// [`ServeError`]: it is gone, or has said nothing for two minutes.
    pub async fn listen(&mut self) -> Result<(), ServeError> {
        let deadline = after(self.link.alive, STALL);
        tokio::select! {
            biased;
            read = self.link.reader.read(&mut self.link.buffer) => {
                if self.link.took(read)? == 0 {
                    return Err(ServeError::Closed(self.link.phase));
                }
                Ok(())
            }
            () = sleep_until(deadline) => Err(self.link.stalled(STALL)),
        }
    }
}

/// What a target was sent.
struct Sent {
    end: Offset,
    held: Option<Counts>,
    refused: u64,
}

/// The end of a snapshot of unknown length. It is in no snapshot, as it is random.
fn mark() -> [u8; MARK_LEN] {
    let text = ReplId::from_random(runtime::random_bytes()).to_string();
    let text = text.as_bytes();
    std::array::from_fn(|at| text.get(at).copied().unwrap_or(b'0'))
}

fn rebuild_error(error: RebuildError) -> ServeError {
    ServeError::Content(Box::new(error.into()))
}

/// Answers a target that came too early like a master that is still loading. The target tries again each second.
///
/// # Errors
/// When it is no replica, or not one that may have the data.
pub async fn refuse_replica<S>(
    stream: S,
    credentials: Option<Credentials>,
    reason: &str,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut master = Master::new(credentials);
    master.set_not_ready(Some(reason.to_owned()));
    let mut link = Link::new(stream, master);
    match link.handshake().await {
        Ok(())
        | Err(ServeError::Closed(_) | ServeError::Broken { .. } | ServeError::Stalled { .. }) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// A target that has everything. The connection must stay until the target has been promoted: see [`Self::hold`].
pub struct CaughtUp<S> {
    link: Link<S>,
    end: Offset,
    held: Option<Counts>,
    refused: u64,
    may_add: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> CaughtUp<S> {
    /// The offset that the target has acknowledged.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// What it was given, if that was counted while it was sent.
    #[must_use]
    pub fn held(&self) -> Option<&Counts> {
        self.held.as_ref()
    }

    /// How many of the commands that it was sent every server refuses.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Does [`Self::hold`] send it `PING`s? A target that gets none leaves after its `repl-timeout`.
    #[must_use]
    pub fn gets_pings(&self) -> bool {
        self.may_add
    }

    /// Keeps the connection until the target closes it, which happens when it is promoted. Run it while the target is
    /// promoted.
    ///
    /// # Errors
    /// [`ServeError::Broken`].
    pub async fn hold(&mut self) -> Result<(), ServeError> {
        let mut ping = Vec::new();
        encode_command(&[b"PING"], &mut ping);
        let mut next = after(Instant::now(), PING);
        loop {
            tokio::select! {
                biased;
                read = self.link.reader.read(&mut self.link.buffer) => {
                    if self.link.took(read)? == 0 {
                        return Ok(());
                    }
                }
                () = sleep_until(next), if self.may_add => {
                    self.link.send(&ping).await?;
                    next = after(Instant::now(), PING);
                }
            }
        }
    }
}

/// A connection and the machine that understands it.
struct Link<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    master: Master,
    phase: Phase,
    requested: bool,
    claim: Option<(ReplId, Offset)>,
    acked: Option<Offset>,
    /// When a byte last went in either direction.
    alive: Instant,
    buffer: Box<[u8]>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    fn new(stream: S, master: Master) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader,
            writer,
            master,
            phase: Phase::Handshake,
            requested: false,
            claim: None,
            acked: None,
            alive: Instant::now(),
            buffer: vec![0; READ].into_boxed_slice(),
        }
    }

    async fn handshake(&mut self) -> Result<(), ServeError> {
        let ended = self.answer_until_sync().await;
        let user = || self.master.credentials()?.username.clone();
        match (ended, self.master.denial()) {
            (
                Err(ServeError::Closed(_) | ServeError::Broken { .. } | ServeError::Stalled { .. }),
                Some(denial),
            ) => Err(match denial {
                Denial::WrongPassword => ServeError::WrongPassword { user: user() },
                Denial::NoPassword => ServeError::NoPassword { user: user() },
            }),
            (ended, _) => ended,
        }
    }

    async fn answer_until_sync(&mut self) -> Result<(), ServeError> {
        let deadline = after(Instant::now(), HANDSHAKE);
        loop {
            // More may have come while the last reply was sent.
            let reply = self.master.take_output();
            if !reply.is_empty() {
                self.send(&reply).await?;
                continue;
            }
            if self.requested {
                return Ok(());
            }
            tokio::select! {
                biased;
                read = self.reader.read(&mut self.buffer) => {
                    if self.took(read)? == 0 {
                        return Err(ServeError::Closed(self.phase));
                    }
                }
                () = sleep_until(deadline) => return Err(self.stalled(HANDSHAKE)),
            }
        }
    }

    /// Runs `work` and sends newlines meanwhile.
    async fn keep_alive<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ServeError> {
        let mut work = std::pin::pin!(work);
        let mut next = after(Instant::now(), KEEPALIVE);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                read = self.reader.read(&mut self.buffer) => {
                    if self.took(read)? == 0 {
                        return Err(ServeError::Closed(self.phase));
                    }
                }
                () = sleep_until(next) => {
                    let newline = self.master.keepalive();
                    self.send(&newline).await?;
                    next = after(Instant::now(), KEEPALIVE);
                }
            }
        }
    }

    /// The snapshot, and the log if it is not in it.
    async fn send_offer(
        &mut self,
        offer: Offer,
        progress: &dyn Progress,
    ) -> Result<Sent, ServeError> {
        let line = self.master.full_resync(offer.id, offer.offset);
        self.send(&line).await?;
        Ok(match offer.payload {
            Payload::Replayed {
                length,
                snapshot,
                log_bytes,
                log,
                end,
                refused,
            } => {
                self.send_snapshot(Framing::Length(length), length, snapshot, progress)
                    .await?;
                self.phase = Phase::Log;
                progress.stage(Stage::Log, Some(log_bytes));
                let sent = self.send_all(log, progress).await?;
                if let Some(expected) = end {
                    expect_length("log", expected.since(offer.offset), sent)?;
                }
                Sent {
                    end: offer.offset.plus(sent),
                    held: None,
                    refused,
                }
            }
            Payload::Rebuilt {
                about,
                snapshot,
                counts,
            } => {
                self.send_snapshot(Framing::Mark(mark()), about, snapshot, progress)
                    .await?;
                let counts = counts
                    .await
                    .map_err(|_| rebuild_error(Interrupted.into()))?;
                Sent {
                    end: offer.offset,
                    held: Some(counts),
                    refused: 0,
                }
            }
        })
    }

    /// The header, the snapshot and its end. `about`: its bytes, for the progress.
    async fn send_snapshot<E: Into<RestoreError>>(
        &mut self,
        framing: Framing,
        about: u64,
        snapshot: BoxStream<'static, Result<Bytes, E>>,
        progress: &dyn Progress,
    ) -> Result<(), ServeError> {
        self.phase = Phase::Snapshot;
        progress.stage(Stage::Snapshot, Some(about));
        let header = self.master.payload_header(&framing);
        self.send(&header).await?;
        let sent = self.send_all(snapshot, progress).await?;
        match framing {
            Framing::Length(length) => expect_length("snapshot", length, sent)?,
            Framing::Mark(mark) => self.send(&mark).await?,
        }
        self.master.payload_done();
        self.acked = None;
        Ok(())
    }

    async fn send_all<E: Into<RestoreError>>(
        &mut self,
        mut content: BoxStream<'static, Result<Bytes, E>>,
        progress: &dyn Progress,
    ) -> Result<u64, ServeError> {
        let mut sent = 0u64;
        while let Some(chunk) = content.next().await {
            let chunk: Bytes = chunk.map_err(|error| Box::new(error.into()))?;
            self.send(&chunk).await?;
            progress.advance(chunk.len() as u64);
            sent = sent.saturating_add(chunk.len() as u64);
        }
        Ok(sent)
    }

    /// Sends, and takes in what the target says meanwhile: one that loads sends newlines and does not read for a while.
    async fn send(&mut self, mut bytes: &[u8]) -> Result<(), ServeError> {
        self.alive = Instant::now();
        let mut flushed = false;
        while !flushed {
            let deadline = after(self.alive, STALL);
            // A target says little, so that it never keeps us from writing.
            let step = tokio::select! {
                biased;
                read = self.reader.read(&mut self.buffer) => Step::Read(read),
                step = write_or_flush(&mut self.writer, bytes) => step,
                () = sleep_until(deadline) => Step::Stalled,
            };
            match step {
                Step::Wrote(Ok(0)) => return Err(ServeError::Closed(self.phase)),
                Step::Wrote(Ok(count)) => {
                    self.alive = Instant::now();
                    bytes = bytes.get(count..).unwrap_or_default();
                }
                Step::Flushed(Ok(())) => flushed = true,
                Step::Wrote(Err(error)) | Step::Flushed(Err(error)) => {
                    return Err(self.broken(&error));
                }
                Step::Read(read) => {
                    if self.took(read)? == 0 {
                        return Err(ServeError::Closed(self.phase));
                    }
                }
                Step::Stalled => return Err(self.stalled(STALL)),
            }
        }
        Ok(())
    }

    /// Waits until the target acknowledges `end`. The answer to `GETACK` does not count that command, later ones do:
    /// `last`.
    async fn wait_for(&mut self, end: Offset, last: Offset) -> Result<(), ServeError> {
        self.alive = Instant::now();
        loop {
            match self.acked {
                Some(acked) if acked > last => {
                    return Err(ServeError::Diverged {
                        acked,
                        expected: end,
                    });
                }
                Some(acked) if acked >= end => return Ok(()),
                _ => {}
            }
            let deadline = after(self.alive, STALL);
            tokio::select! {
                biased;
                read = self.reader.read(&mut self.buffer) => {
                    if self.took(read)? == 0 {
                        return Err(ServeError::Closed(self.phase));
                    }
                }
                () = sleep_until(deadline) => return Err(self.stalled(STALL)),
            }
        }
    }

    /// Takes in what was read. 0 at the end of the connection.
    fn took(&mut self, read: std::io::Result<usize>) -> Result<usize, ServeError> {
        let count = match read {
            Ok(count) => count,
            // Only with TLS: it closed the connection without a close_notify, as a killed process does.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(self.broken(&error)),
        };
        self.alive = Instant::now();
        self.master
            .push(self.buffer.get(..count).unwrap_or_default())?;
        while let Some(event) = self.master.next_event() {
            match event {
                MasterEvent::SyncRequested { id, offset, .. } => {
                    self.requested = true;
                    self.claim = id.zip(offset);
                }
                MasterEvent::Ack(offset) => self.acked = Some(offset),
            }
        }
        Ok(count)
    }

    fn broken(&self, error: &std::io::Error) -> ServeError {
        ServeError::Broken {
            phase: self.phase,
            cause: error.to_string(),
        }
    }

    fn stalled(&self, waited: Duration) -> ServeError {
        ServeError::Stalled {
            phase: self.phase,
            seconds: waited.as_secs(),
        }
    }
}

/// What one step of sending came to.
enum Step {
    Wrote(std::io::Result<usize>),
    /// All of it was sent. TLS may hold some of it back.
    Flushed(std::io::Result<()>),
    Read(std::io::Result<usize>),
    Stalled,
}

async fn write_or_flush(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Step {
    if bytes.is_empty() {
        return Step::Flushed(writer.flush().await);
    }
    Step::Wrote(writer.write(bytes).await)
}

fn after(from: Instant, wait: Duration) -> Instant {
    from.checked_add(wait).unwrap_or(from)
}

fn expect_length(what: &'static str, expected: u64, found: u64) -> Result<(), ServeError> {
    if found == expected {
        return Ok(());
    }
    Err(ServeError::Length {
        what,
        expected,
        found: found.abs_diff(expected),
    })
}

#[cfg(test)]
#[path = "master_tests.rs"]
mod tests;

//! Playing a story to replicas: what each is answered, in which pieces, and what goes wrong on purpose.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

pub use super::options::{BadOption, Cut, Fault, Options, Pace};
use super::story::{Story, Stretch};
use crate::position::{Offset, ReplId};
use crate::proto::master::Master;
use crate::proto::transfer::{Framing, MARK_LEN};
use crate::rdb::Walker;

/// What a master says when it has nothing to say.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
/// Bytes of the snapshot in one write.
const PAYLOAD_PIECE: usize = 64 << 10;
/// Writes that are put together are at most so long.
const COALESCED: usize = 1 << 20;
/// Split writes have up to 7 bytes in the first so many bytes, and up to 4 KiB after them, so that they end some day.
const FINE: usize = 64 << 10;
/// A mark is split behind one of its first so many bytes.
const HELD: u64 = MARK_LEN as u64 - 1;
/// Between two writes that must not arrive as one.
const APART: Duration = Duration::from_millis(30);

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// To wait before it.
    pub wait: Duration,
    /// To write.
    pub bytes: Bytes,
    /// First, the replica acknowledges something: servers look for a mark at the end of what they have read alone, and begin to
    /// acknowledge when they have loaded the snapshot. A master says nothing in between.
    pub after_ack: bool,
}

/// What comes after the last write. Tell [`Play::ended`] when it has come to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The link ends by the cut of this number.
    Cut(usize),
    /// The link ends as it did in the recording; this stretch is the next.
    Recorded(usize),
    /// The story is over, and the link stays.
    Stay,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(number) => write!(f, "by cut {} of --cut-at", number.saturating_add(1)),
            Self::Recorded(_) => f.write_str("as it was in the recording"),
            Self::Stay => f.write_str("after the last write"),
        }
    }
}

/// What a replica is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Writes, in order.
    pub steps: Vec<Step>,
    /// And then.
    pub ending: Ending,
}

/// What goes wrong on one connection before the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Welcome {
    /// It is told `-LOADING`.
    pub is_loading: bool,
    repeats: bool,
    reorders: bool,
}

impl Welcome {
    /// What is written for these replies, which are whole.
    #[must_use]
    pub fn replies(self, replies: Bytes) -> Bytes {
        // A bulk string is none of the handshake's.
        if replies.contains(&b'$') || !(self.repeats || self.reorders) {
            return replies;
        }
        let mut lines: Vec<&[u8]> = replies.split_inclusive(|byte| *byte == b'\n').collect();
        if self.reorders {
            lines.reverse();
        }
        let times = if self.repeats { 2 } else { 1 };
        lines
            .into_iter()
            .flat_map(|line| line.repeat(times))
            .collect()
    }

    /// The same for the answer to a `PSYNC`, of which the first line is the reply.
    pub fn answer(self, steps: &mut Vec<Step>) {
        let is_reply = |step: &Step| step.bytes.starts_with(b"+");
        let Some(at) = steps.iter().position(is_reply) else {
            return;
        };
        let next = at.saturating_add(1);
        if self.reorders && next < steps.len() {
            steps.swap(at, next);
        }
        if self.repeats
            && let Some(reply) = steps.get(at).cloned()
        {
            steps.insert(at, reply);
        }
    }
}

/// A story that is played: what has happened so far, over all connections.
#[derive(Debug, Clone)]
pub struct Play {
    story: Story,
    options: Options,
    /// The stretch that the story has come to.
    reached: usize,
    cuts_done: Vec<bool>,
    connections: u32,
    /// Where the last cut on purpose was.
    cut_at: Option<Offset>,
    full_sync_due: bool,
    /// Bytes of `PING` that were sent after the end.
    pinged: u64,
}

impl Play {
    /// At its beginning.
    #[must_use]
    pub fn new(story: Story, options: Options) -> Self {
        Self {
            cuts_done: vec![false; options.cuts.len()],
            connections: 0,
            story,
            options,
            reached: 0,
            cut_at: None,
            full_sync_due: false,
            pinged: 0,
        }
    }

    /// The story.
    #[must_use]
    pub fn story(&self) -> &Story {
        &self.story
    }

    /// What `INFO` says: which server wrote the snapshot, and how far the feed goes.
    #[must_use]
    pub fn info(&self) -> String {
        let mut walker = Walker::new();
        // What cannot be walked says nothing of its server.
        let _ = walker.push(&self.story.rdb);
        let aux = &walker.summary().aux;
        let mut lines = vec!["role:master".to_owned(), "connected_slaves:0".to_owned()];
        for (name, field) in [
            ("redis-ver", "redis_version"),
            ("valkey-ver", "valkey_version"),
        ] {
            if let Some(version) = aux.get(name) {
                lines.push(format!("{field}:{version}"));
            }
        }
        if aux.contains_key("valkey-ver") {
            lines.push("server_name:valkey".to_owned());
        }
        lines.push(format!("master_replid:{}", self.id()));
        lines.push(format!("master_repl_offset:{}", self.end()));
        lines.join("\r\n") + "\r\n"
    }

    /// A replica has connected: how is it received?
    pub fn welcome(&mut self) -> Welcome {
        let number = self.connections;
        self.connections = number.saturating_add(1);
        let mut welcome = Welcome::default();
        for fault in &self.options.faults {
            match *fault {
                Fault::Loading(many) => welcome.is_loading = number < many,
                Fault::Repeat(many) => welcome.repeats = number < many,
                Fault::Reorder(many) => welcome.reorders = number < many,
                _ => {}
            }
        }
        welcome
    }

    /// Is nothing left that would cut the link?
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.reached.saturating_add(1) >= self.story.stretches.len()
            && self.cuts_done.iter().all(|done| *done)
    }

    /// The last offset, with every `PING` after the end of the story.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.story.end().plus(self.pinged)
    }

    /// A `PING` was sent after the end.
    pub fn pinged(&mut self) {
        self.pinged = self.pinged.saturating_add(PING.len() as u64);
    }

    /// A replica asks for what comes after `offset` of the history `id`, or for everything.
    pub fn answer(
        &mut self,
        id: Option<ReplId>,
        offset: Option<Offset>,
        master: &mut Master,
    ) -> Answer {
        let mut steps = Vec::new();
        let mut marked = false;
        let from = match id
            .zip(offset)
            .filter(|(id, offset)| self.continues(*id, *offset))
        {
            Some((_, offset)) => {
                self.pass_by(offset);
                push(&mut steps, Duration::ZERO, master.resume(self.id()));
                offset
            }
            None => {
                self.full_sync_due = false;
                marked = matches!(self.framing(master), Framing::Mark(_));
                if let Some(ending) = self.full_sync(&mut steps, master) {
                    return Answer {
                        steps: self.shaped(steps),
                        ending,
                    };
                }
                self.story.base.offset
            }
        };
        let (to, ending) = self.until(from);
        let begun = steps.len();
        self.feed(&mut steps, from, to);
        if let (true, Some(first)) = (marked, steps.get_mut(begun)) {
            first.after_ack = true;
        }
        Answer {
            steps: self.shaped(steps),
            ending,
        }
    }

    /// The link has come to the end that the answer said.
    pub fn ended(&mut self, ending: Ending) {
        match ending {
            Ending::Cut(number) => {
                if let Some(done) = self.cuts_done.get_mut(number) {
                    *done = true;
                }
                self.cut_at = self.options.cuts.get(number).map(|cut| match cut {
                    Cut::Payload(_) => self.story.base.offset,
                    Cut::Offset(_) | Cut::Feed(_) => self.offset_of(*cut),
                });
                self.full_sync_due = self.has(Fault::FullSyncAfterCut);
            }
            Ending::Recorded(next) => self.reached = self.reached.max(next),
            Ending::Stay => {}
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.options.faults.contains(&fault)
    }

    fn stretch(&self) -> Option<&Stretch> {
        self.story.stretches.get(self.reached)
    }

    /// The id that the master has now.
    fn id(&self) -> ReplId {
        match self.cut_at {
            Some(_) if self.has(Fault::NewIdAfterCut) => derived(self.options.seed, 2),
            _ => self.told(
                self.stretch()
                    .map_or(self.story.base.history, |stretch| stretch.id),
            ),
        }
    }

    /// What a replica is told instead of a recorded id.
    fn told(&self, id: ReplId) -> ReplId {
        if self.has(Fault::OtherId) {
            // Different for each of the recorded ids.
            let number = self
                .story
                .stretches
                .iter()
                .position(|stretch| stretch.id == id);
            return derived(
                self.options.seed,
                100_u64.saturating_add(number.unwrap_or(0) as u64),
            );
        }
        id
    }

    /// Does the feed go on for a replica with this?
    fn continues(&self, id: ReplId, offset: Offset) -> bool {
        if self.full_sync_due || offset < self.story.base.offset {
            return false;
        }
        if id == self.id() {
            return offset <= self.end();
        }
        let mut before = self
            .story
            .stretches
            .iter()
            .take(self.reached.saturating_add(1));
        let old = before.rfind(|stretch| self.told(stretch.id) == id);
        let renamed = self.cut_at.filter(|_| self.has(Fault::NewIdAfterCut));
        old.is_some_and(|stretch| offset <= renamed.unwrap_or(stretch.to))
    }

    /// Stretches that end before what is wanted are over.
    fn pass_by(&mut self, wanted: Offset) {
        while let Some(stretch) = self.stretch()
            && stretch.to <= wanted
            && self.reached.saturating_add(1) < self.story.stretches.len()
        {
            self.reached = self.reached.saturating_add(1);
        }
    }

    fn offset_of(&self, cut: Cut) -> Offset {
        match cut {
            Cut::Offset(offset) => offset,
            Cut::Feed(bytes) | Cut::Payload(bytes) => self.story.base.offset.plus(bytes),
        }
    }

    /// How far a link goes that begins at `from`.
    fn until(&self, from: Offset) -> (Offset, Ending) {
        let next = self.reached.saturating_add(1);
        let (mut to, mut ending) = match self.stretch() {
            Some(stretch) if next < self.story.stretches.len() => {
                (stretch.to, Ending::Recorded(next))
            }
            _ => (self.end(), Ending::Stay),
        };
        for (number, cut) in self.options.cuts.iter().enumerate() {
            let done = self.cuts_done.get(number).copied().unwrap_or(true);
            let at = self.offset_of(*cut);
            if !done && !matches!(cut, Cut::Payload(_)) && from <= at && at < to {
                (to, ending) = (at, Ending::Cut(number));
            }
        }
        (to, ending)
    }

    /// `+FULLRESYNC` and the snapshot; how the link ends, if it does not come to the feed.
    fn full_sync(&self, steps: &mut Vec<Step>, master: &mut Master) -> Option<Ending> {
        let count = self.options.faults.iter().find_map(|fault| match fault {
            Fault::Keepalives(count) => Some(*count),
            _ => None,
        });
        let keepalives = |steps: &mut Vec<Step>| {
            for _ in 0..count.unwrap_or(0) {
                push(steps, Duration::from_millis(5), Bytes::from_static(b"\n"));
            }
        };
        keepalives(steps);
        push(
            steps,
            Duration::ZERO,
            master.full_resync(self.id(), self.story.base.offset),
        );
        keepalives(steps);
        let rdb = &self.story.rdb;
        let length = master.payload_header(rdb.len() as u64);
        let framing = self.framing(master);
        let mut payload = BytesMut::from(&rdb[..]);
        let header = match framing {
            Framing::Length(_) => length,
            Framing::Mark(mark) => {
                payload.extend_from_slice(&mark);
                Bytes::from([b"$EOF:", &mark[..], b"\r\n"].concat())
            }
        };
        let mut payload = payload.freeze();
        let mut ending = None;
        for (number, cut) in self.options.cuts.iter().enumerate() {
            let done = self.cuts_done.get(number).copied().unwrap_or(true);
            if let (Cut::Payload(bytes), false, None) = (cut, done, ending) {
                payload.truncate(usize::try_from(*bytes).unwrap_or(usize::MAX));
                ending = Some(Ending::Cut(number));
            }
        }
        push(steps, Duration::ZERO, header);
        let begun = steps.len();
        let in_mark = remainder(self.options.seed, HELD);
        let second = match framing {
            Framing::Mark(_) if self.has(Fault::EofSplit) => payload.split_off(
                rdb.len()
                    .saturating_add(in_mark)
                    .saturating_add(1)
                    .min(payload.len()),
            ),
            _ => Bytes::new(),
        };
        pieces(steps, payload, PAYLOAD_PIECE);
        push(steps, APART, second);
        self.stall(steps, begun);
        master.payload_done();
        ending
    }

    fn framing(&self, master: &Master) -> Framing {
        let can = |name: &String| name.eq_ignore_ascii_case("eof");
        let mark = || {
            let text = derived(self.options.seed, 1);
            let text = text.as_str().as_bytes();
            Framing::Mark(std::array::from_fn(|at| {
                text.get(at).copied().unwrap_or(b'm')
            }))
        };
        if !master.capabilities().iter().any(can) || self.has(Fault::Disk) {
            return Framing::Length(0);
        }
        match &self.story.framing {
            Framing::Length(_) if self.has(Fault::Eof) || self.has(Fault::EofSplit) => mark(),
            recorded => recorded.clone(),
        }
    }

    /// The feed, in the pieces that came.
    fn feed(&self, steps: &mut Vec<Step>, from: Offset, to: Offset) {
        let begun = steps.len();
        let mut at = from;
        let mut last_us = None;
        for arrival in &self.story.arrivals {
            if arrival.offset <= at {
                last_us = Some(arrival.after_us);
                continue;
            }
            let upto = arrival.offset.min(to);
            // A connection's own clock begins anew.
            let gap = arrival
                .after_us
                .saturating_sub(last_us.unwrap_or(arrival.after_us));
            let wait = match self.options.pace {
                Pace::Fast => Duration::ZERO,
                Pace::Times(times) => {
                    Duration::try_from_secs_f64(gap as f64 / 1e6 / times).unwrap_or_default()
                }
            };
            push(steps, wait, self.story.between(at, upto));
            (at, last_us) = (upto, Some(arrival.after_us));
            if at == to {
                break;
            }
        }
        self.stall(steps, begun);
        // After the end there is nothing but PING.
        let wanted = to.since(at.max(self.story.end()));
        let skipped = remainder(at.since(self.story.end()), PING.len() as u64);
        let pings = PING.iter().copied().cycle();
        let wanted = usize::try_from(wanted).unwrap_or(0);
        push(
            steps,
            Duration::ZERO,
            pings.skip(skipped).take(wanted).collect(),
        );
    }

    /// In the middle of the steps from `begun` on.
    fn stall(&self, steps: &mut [Step], begun: usize) {
        let middle = begun.saturating_add(steps.len().saturating_sub(begun) / 2);
        for fault in &self.options.faults {
            if let (Fault::Stall(time), Some(step)) = (fault, steps.get_mut(middle)) {
                step.wait = step.wait.saturating_add(*time);
            }
        }
    }

    /// Split or put together, as the faults say.
    fn shaped(&self, steps: Vec<Step>) -> Vec<Step> {
        if self.has(Fault::Split) {
            return split(steps, self.options.seed);
        }
        if self.has(Fault::Coalesce) {
            return coalesced(steps);
        }
        steps
    }
}

fn push(steps: &mut Vec<Step>, wait: Duration, bytes: Bytes) {
    if !bytes.is_empty() {
        steps.push(Step {
            wait,
            bytes,
            after_ack: false,
        });
    }
}

fn pieces(steps: &mut Vec<Step>, mut bytes: Bytes, most: usize) {
    while !bytes.is_empty() {
        push(steps, Duration::ZERO, bytes.split_to(most.min(bytes.len())));
    }
}

fn split(steps: Vec<Step>, seed: u64) -> Vec<Step> {
    let mut out = Vec::new();
    let (mut state, mut done) = (seed, 0_usize);
    for Step {
        mut wait,
        mut bytes,
        mut after_ack,
    } in steps
    {
        while !bytes.is_empty() {
            state = mixed(state.wrapping_add(1));
            let most = if done < FINE { 7 } else { 4096 };
            let length = remainder(state, most).saturating_add(1);
            let part = bytes.split_to(length.min(bytes.len()));
            done = done.saturating_add(part.len());
            push(&mut out, std::mem::take(&mut wait), part);
            if let (true, Some(first)) = (std::mem::take(&mut after_ack), out.last_mut()) {
                first.after_ack = true;
            }
        }
    }
    out
}

fn coalesced(steps: Vec<Step>) -> Vec<Step> {
    let mut out = Vec::new();
    for part in steps.chunk_by(|_, next| !next.after_ack) {
        let all: Vec<u8> = part
            .iter()
            .flat_map(|step| step.bytes.iter().copied())
            .collect();
        let begun = out.len();
        pieces(&mut out, all.into(), COALESCED);
        let after_ack = part.first().is_some_and(|step| step.after_ack);
        if let Some(first) = out.get_mut(begun) {
            first.after_ack = after_ack;
        }
    }
    out
}

fn remainder(number: u64, of: u64) -> usize {
    let remainder = number.checked_rem(of).unwrap_or(0);
    usize::try_from(remainder).unwrap_or(0)
}

/// splitmix64.
fn mixed(seed: u64) -> u64 {
    let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Always the same for a seed.
fn derived(seed: u64, number: u64) -> ReplId {
    let mut bytes = [0; 20];
    for (at, byte) in bytes.iter_mut().enumerate() {
        let [low, ..] =
            mixed(mixed(seed ^ number.rotate_left(32)).wrapping_add(at as u64)).to_le_bytes();
        *byte = low;
    }
    ReplId::from_random(bytes)
}

#[cfg(test)]
#[path = "play_tests.rs"]
mod tests;

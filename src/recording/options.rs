//! How a story is played, as it is written on the command line.

use std::str::FromStr;
use std::time::Duration;

use crate::position::Offset;

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Pace {
    /// As fast as the replica reads.
    #[default]
    Fast,
    /// So many times as fast as it was recorded.
    Times(f64),
}

/// Where the link is cut, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// After this offset of the feed.
    Offset(Offset),
    /// After so many bytes of the feed.
    Feed(u64),
    /// After so many bytes of the snapshot (its mark included).
    Payload(u64),
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `stall:TIME`: nothing for so long in the middle of the snapshot, and of the feed.
    Stall(Duration),
    /// `split`: writes of a few bytes, which a replica reads in many pieces.
    Split,
    /// `coalesce`: as much as possible in each write.
    Coalesce,
    /// `loading[:N]`: the first N connections (3) are answered `-LOADING`.
    Loading(u32),
    /// `repeat[:N]`: every reply to the first N connections (1) comes twice.
    Repeat(u32),
    /// `reorder[:N]`: replies to the first N connections (1) that go out together do so in reverse order, and what comes after
    /// `+FULLRESYNC` or `+CONTINUE` comes before it.
    Reorder(u32),
    /// `disk`: the snapshot with its length, however it was recorded.
    Disk,
    /// `eof`: the snapshot with a mark at its end, for replicas that announce `capa eof`.
    Eof,
    /// `eof-split`: the same, and the mark arrives in two parts.
    EofSplit,
    /// `keepalives[:N]`: N newlines (5) before `+FULLRESYNC`, and before the snapshot.
    Keepalives(u32),
    /// `other-id`: another replication id than the recorded one.
    OtherId,
    /// `new-id-after-cut`: after a cut, the feed goes on under another id, as after a failover.
    NewIdAfterCut,
    /// `full-sync-after-cut`: after a cut, there is no partial resync, as with a backlog that is too short.
    FullSyncAfterCut,
}

/// How a story is played.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options {
    /// How fast.
    pub pace: Pace,
    /// Where the link is cut.
    pub cuts: Vec<Cut>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What faults choose by.
    pub seed: u64,
}

/// A text that is no pace, cut or fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadOption(&'static str);

impl FromStr for Pace {
    type Err = BadOption;

    fn from_str(text: &str) -> Result<Self, BadOption> {
        let times = |text: &str| {
            text.parse()
                .ok()
                .filter(|times: &f64| *times > 0.0 && times.is_finite())
        };
        match text {
            "fast" => Ok(Self::Fast),
            "recorded" => Ok(Self::Times(1.0)),
            _ => text
                .strip_suffix(['x', '×'])
                .and_then(times)
                .map(Self::Times)
                .ok_or(BadOption(
                    "write `recorded`, `fast`, or how many times as fast, such as `10x`",
                )),
        }
    }
}

impl FromStr for Cut {
    type Err = BadOption;

    fn from_str(text: &str) -> Result<Self, BadOption> {
        let number = |text: &str| {
            let wrong = BadOption("write an offset, `+BYTES` of the feed, or `payload:BYTES`");
            text.parse().map_err(|_| wrong)
        };
        if let Some(bytes) = text.strip_prefix("payload:") {
            return number(bytes).map(Self::Payload);
        }
        match text.strip_prefix('+') {
            Some(bytes) => number(bytes).map(Self::Feed),
            None => number(text).map(|at| Self::Offset(Offset(at))),
        }
    }
}

impl FromStr for Fault {
    type Err = BadOption;

    fn from_str(text: &str) -> Result<Self, BadOption> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let count = |usual: u32| match value {
            None => Ok(usual),
            Some(value) => value
                .parse()
                .map_err(|_| BadOption("write a number after the colon")),
        };
        let milliseconds = |value: &str| value.trim_end_matches("ms").parse().ok();
        match (name, value) {
            ("stall", Some(value)) => milliseconds(value)
                .map(|ms| Self::Stall(Duration::from_millis(ms)))
                .ok_or(BadOption("write milliseconds: stall:500")),
            ("loading", _) => count(3).map(Self::Loading),
            ("repeat", _) => count(1).map(Self::Repeat),
            ("reorder", _) => count(1).map(Self::Reorder),
            ("keepalives", _) => count(5).map(Self::Keepalives),
            ("split", None) => Ok(Self::Split),
            ("coalesce", None) => Ok(Self::Coalesce),
            ("disk", None) => Ok(Self::Disk),
            ("eof", None) => Ok(Self::Eof),
            ("eof-split", None) => Ok(Self::EofSplit),
            ("other-id", None) => Ok(Self::OtherId),
            ("new-id-after-cut", None) => Ok(Self::NewIdAfterCut),
            ("full-sync-after-cut", None) => Ok(Self::FullSyncAfterCut),
            _ => Err(BadOption(
                "there are stall:MS, split, coalesce, loading[:N], repeat[:N], reorder[:N], disk, eof, eof-split, \
                 keepalives[:N], other-id, new-id-after-cut, full-sync-after-cut",
            )),
        }
    }
}

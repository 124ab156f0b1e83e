//! The memory of a service, and how it is divided. This is the only place that says so.
//!
//! ```text
//! budget = the program ─ objects on their way ─ plans ─ what the allocator keeps ─┬─ the feed (two fifths of the rest)
//!                                                                                  └─ new bases (three fifths)
//! ```

use std::fmt;

use super::cgroup::CgroupLimit;

/// The budget without a limit, and the most in a cgroup that others share. The manifests in `docker/` give the same.
pub const DEFAULT_BUDGET: usize = 256 << 20;
/// No more of a higher limit is taken by default: the cgroup may be that of a whole machine.
const MOST_UNASKED: usize = 1 << 30;

/// The program's own data, its threads, connections, TLS, the page tables.
const PROGRAM: usize = 16 << 20;
/// A base on its way to the store (6 MiB, and up to 24 MiB of parts with a store on the network), one that is read back, a segment
/// read ahead. A segment that is stored takes as much again as it has bytes: [`Wanted::segment_size`]. While a Redis is restored:
/// the segments that are read for that.
pub const OBJECTS: usize = 32 << 20;
/// The list of what the store holds, and the headers of the log that a base is made of: some 400 bytes a segment.
pub const PLANS: usize = 8 << 20;
/// Of the whole: what the allocator keeps, and what the accounts of the others miss.
const MARGIN_DIVISOR: usize = 8;
/// How many fifths of the rest are for the feed.
const FEED_FIFTHS: usize = 2;
/// With less, almost no base could be made.
const CONSOLIDATION_MIN: usize = 16 << 20;

/// Why a budget is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// `--memory-budget`.
    Asked,
    /// The cgroup's limit.
    Cgroup,
    /// Less than that limit, which is high, or that of a cgroup that others share.
    WithinCgroup,
    /// There is no limit.
    Default,
}

/// The memory of the process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    bytes: usize,
    origin: Origin,
    cgroup: Option<CgroupLimit>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// `--segment-size`.
    pub segment_size: usize,
    /// `--feed-memory`.
    pub feed: Option<usize>,
    /// `--consolidate-memory`.
    pub consolidation: Option<usize>,
}

/// Who may take how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Feed that was received and is not stored yet.
    pub feed: usize,
    /// The keys that the log touches, while a base is made.
    pub consolidation: usize,
    /// Everything else.
    pub rest: usize,
}

impl Budget {
    /// The budget that a flag sets, else what the cgroup allows, else the default.
    #[must_use]
    pub fn new(asked: Option<usize>, cgroup: Option<CgroupLimit>) -> Self {
        let (bytes, origin) = match (asked, cgroup) {
            (Some(asked), _) => (asked, Origin::Asked),
            (None, None) => (DEFAULT_BUDGET, Origin::Default),
            (None, Some(limit)) => {
                let most = if limit.own {
                    MOST_UNASKED
                } else {
                    DEFAULT_BUDGET
                };
                match usize::try_from(limit.bytes) {
                    Ok(bytes) if bytes <= most => (bytes, Origin::Cgroup),
                    _ => (most, Origin::WithinCgroup),
                }
            }
        };
        Self {
            bytes,
            origin,
            cgroup,
        }
    }

    /// Divides it. Flags are followed even if the sum does not fit: see [`Self::warning`].
    #[must_use]
    pub fn shares(&self, wanted: Wanted) -> Shares {
        let rest = self.rest(wanted.segment_size);
        let left = self.bytes.saturating_sub(rest);
        let feed_min = least_feed(wanted.segment_size);
        let by_default = (left / 5).saturating_mul(FEED_FIFTHS).max(feed_min);
        let feed = match (wanted.feed, wanted.consolidation) {
            (Some(asked), _) => asked,
            // What the other leaves.
            (None, Some(other)) => by_default.min(left.saturating_sub(other).max(feed_min)),
            (None, None) => by_default,
        };
        let others = left.saturating_sub(feed).max(CONSOLIDATION_MIN);
        Shares {
            feed,
            consolidation: wanted.consolidation.unwrap_or(others),
            rest,
        }
    }

    /// For a command that ends: bytes for the keys that the log touches, at most `most`, and no more than the cgroup's
    /// limit leaves. It holds no feed.
    #[must_use]
    pub fn keys(&self, most: usize) -> usize {
        let limit = self.cgroup.map(|limit| usize::try_from(limit.bytes));
        let Some(Ok(limit)) = limit else {
            return most;
        };
        let rest = fixed(0).saturating_add(limit / MARGIN_DIVISOR);
        limit.saturating_sub(rest).max(CONSOLIDATION_MIN).min(most)
    }

    /// What an operator should change, if the shares do not fit; names of settings are in backticks.
    #[must_use]
    pub fn warning(&self, wanted: Wanted) -> Option<String> {
        let shares = self.shares(wanted);
        let needed = shares.all();
        let limit = self.limit();
        (needed > limit).then(|| {
            let flags = match (wanted.feed, wanted.consolidation) {
                (None, None) => "a smaller `segment_size` needs less".to_owned(),
                _ => "leave out `feed_memory` and `consolidate_memory`, which take what is there by themselves".to_owned(),
            };
            format!(
                "{shares}: together {}, which is more than {self}. The system may kill backfeed when it uses them. \
                 Allow {} or more, or {flags}",
                Size(needed),
                Size(needed),
            )
        })
    }

    /// What the process must not pass.
    fn limit(&self) -> usize {
        let cgroup = self.cgroup.map(|limit| usize::try_from(limit.bytes));
        match cgroup {
            Some(Ok(limit)) => limit.min(self.bytes),
            _ => self.bytes,
        }
    }

    fn rest(&self, segment_size: usize) -> usize {
        fixed(segment_size).saturating_add(self.bytes / MARGIN_DIVISOR)
    }
}

/// What does not grow with the budget.
fn fixed(segment_size: usize) -> usize {
    [PROGRAM, OBJECTS, PLANS, segment_size]
        .into_iter()
        .fold(0, usize::saturating_add)
}

/// One segment is on its way to the store while the next one fills.
#[must_use]
pub fn least_feed(segment_size: usize) -> usize {
    segment_size.saturating_mul(2)
}

impl Shares {
    fn all(&self) -> usize {
        let both = self.feed.saturating_add(self.consolidation);
        both.saturating_add(self.rest)
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.origin {
            Origin::Asked => "`memory_budget`",
            Origin::Cgroup => "the limit of its cgroup",
            Origin::WithinCgroup => "more of the cgroup's limit only with `memory_budget`",
            Origin::Default => "there is no limit of a cgroup; another one with `memory_budget`",
        };
        write!(
            f,
            "the {} of memory for this process ({why})",
            Size(self.bytes)
        )?;
        match self.cgroup {
            Some(limit) if self.origin == Origin::Asked && limit.bytes < self.bytes as u64 => {
                let allowed = usize::try_from(limit.bytes).unwrap_or(usize::MAX);
                write!(f, ", of which its cgroup allows {}", Size(allowed))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} for feed that waits for the store (`feed_memory`), {} for creating bases (`consolidate_memory`), {} for all else",
            Size(self.feed),
            Size(self.consolidation),
            Size(self.rest)
        )
    }
}

/// In MiB, rounded up.
struct Size(usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

#[cfg(test)]
#[path = "memory_budget_tests.rs"]
mod tests;

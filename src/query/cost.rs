//! What a store holds, how fast it grows, and what providers bill for that by their list prices.

mod prices;

use serde::Serialize;

use crate::archive::{Amount, Archive, ArchiveError, Kinds, Sizes, Usage};
use crate::log::segment::{Entry, SegmentHeader};
use crate::wire::position::ReplId;

pub use prices::{Bill, PRICES};

/// The rate is that of the last day of the log, or of as much as there is.
const WINDOW_MS: i64 = 24 * 3600 * 1000;
/// A log that is shorter tells no rate.
const SHORTEST_MS: i64 = 60 * 1000;
/// A month has 30 days here.
const MONTH_MS: u128 = 30 * 24 * 3600 * 1000;

/// What a store holds and how fast it grows.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// In sum, by kind.
    #[serde(flatten)]
    pub kinds: Kinds,
    /// All of these.
    pub total: Amount,
    /// None: the log is too short to tell.
    pub rate: Option<Rate>,
    /// By provider.
    pub bills: Vec<Bill>,
}

/// What was written in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// The beginning of the stretch.
    pub from_unix_ms: i64,
    /// The last time of the log.
    pub to_unix_ms: i64,
    /// Segments and spans of that time.
    pub log: Amount,
    /// Bases of that time. The one that a log begins with does not count.
    pub bases: Amount,
    /// Segments and spans in 30 days at this rate.
    pub log_a_month: Amount,
    /// Bases in 30 days at this rate.
    pub bases_a_month: Amount,
}

impl Cost {
    /// Lists the store, and reads a few headers of each log.
    ///
    /// # Errors
    /// The store failed, or a header that had to be read is damaged.
    pub async fn of(archive: &Archive) -> Result<Self, ArchiveError> {
        let usage = archive.usage().await?;
        let rate = rate(archive, &usage).await?;
        let total = usage.kinds.total();
        let bills = PRICES
            .iter()
            .map(|price| price.bill(total.bytes, rate.as_ref()))
            .collect();
        Ok(Self {
            kinds: usage.kinds,
            total,
            rate,
            bills,
        })
    }
}

async fn rate(archive: &Archive, usage: &Usage) -> Result<Option<Rate>, ArchiveError> {
    let mut ends = Vec::new();
    for (id, sizes) in &usage.histories {
        if let Some(end) = last_time(archive, *id, sizes).await? {
            ends.push((*id, sizes, end));
        }
    }
    let Some(to_unix_ms) = ends.iter().map(|(_, _, end)| *end).max() else {
        return Ok(None);
    };
    let earliest = to_unix_ms.saturating_sub(WINDOW_MS);
    let mut from_unix_ms = to_unix_ms;
    let (mut log, mut bases) = (Amount::default(), Amount::default());
    for (id, sizes, end) in ends {
        if end < earliest {
            continue;
        }
        let first = first_within(archive, id, sizes, earliest).await?;
        let begins = match first {
            0 => first_time(archive, id, sizes).await?.max(earliest),
            _ => earliest,
        };
        from_unix_ms = from_unix_ms.min(begins);
        let counted = sizes.log.get(first..).unwrap_or_default();
        counted.iter().for_each(|(_, bytes)| log.add(*bytes));
        let first_byte = counted.first().map_or(u64::MAX, |(first, _)| *first);
        // Segments that a span has may be gone. Those that are left tell how long the stretch is.
        let merged = sizes.spans.iter().filter(|(at, _)| *at >= first_byte);
        merged.for_each(|(_, bytes)| log.add(*bytes));
        let made = sizes.bases.iter().filter(|(at, _)| at.0 >= first_byte);
        made.for_each(|(_, bytes)| bases.add(*bytes));
    }
    let length = to_unix_ms.saturating_sub(from_unix_ms);
    Ok((length >= SHORTEST_MS).then(|| Rate {
        from_unix_ms,
        to_unix_ms,
        log,
        bases,
        log_a_month: a_month(log, length),
        bases_a_month: a_month(bases, length),
    }))
}

fn a_month(amount: Amount, length_ms: i64) -> Amount {
    let length = u128::from(length_ms.max(1).unsigned_abs());
    let scaled = |many: u64| {
        let month = u128::from(many).saturating_mul(MONTH_MS);
        u64::try_from(month.checked_div(length).unwrap_or(0)).unwrap_or(u64::MAX)
    };
    Amount {
        objects: scaled(amount.objects),
        bytes: scaled(amount.bytes),
    }
}

/// The last time in a log. None: it has no segment.
async fn last_time(
    archive: &Archive,
    id: ReplId,
    sizes: &Sizes,
) -> Result<Option<i64>, ArchiveError> {
    // The last object may be a seal.
    for (first_byte, _) in sizes.log.iter().rev().take(2) {
        if let Some(header) = segment(archive, id, *first_byte).await? {
            return Ok(header.meta.marks.last().map(|mark| mark.unix_ms));
        }
    }
    Ok(None)
}

/// The first time in a log.
async fn first_time(archive: &Archive, id: ReplId, sizes: &Sizes) -> Result<i64, ArchiveError> {
    let Some((first_byte, _)) = sizes.log.first() else {
        return Ok(i64::MAX);
    };
    let header = segment(archive, id, *first_byte).await?;
    let mark = header.and_then(|header| header.meta.marks.first().copied());
    Ok(mark.map_or(i64::MAX, |mark| mark.unix_ms))
}

/// How many objects of a log end before a time: those before the first one that does not. It is found by halving, because times
/// ascend.
async fn first_within(
    archive: &Archive,
    id: ReplId,
    sizes: &Sizes,
    unix_ms: i64,
) -> Result<usize, ArchiveError> {
    let (mut low, mut high) = (0, sizes.log.len());
    while low < high {
        let middle = low.midpoint(high);
        let Some((first_byte, _)) = sizes.log.get(middle) else {
            break;
        };
        let header = segment(archive, id, *first_byte).await?;
        let ends = header.and_then(|header| header.meta.marks.last().copied());
        // A seal is the last one.
        if ends.is_some_and(|mark| mark.unix_ms < unix_ms) {
            low = middle.saturating_add(1);
        } else {
            high = middle;
        }
    }
    Ok(low)
}

async fn segment(
    archive: &Archive,
    id: ReplId,
    first_byte: u64,
) -> Result<Option<SegmentHeader>, ArchiveError> {
    Ok(match archive.entry(id, first_byte).await? {
        Some(Entry::Segment(header)) => Some(header),
        Some(Entry::Seal(_)) | None => None,
    })
}

#[cfg(test)]
#[path = "cost_tests.rs"]
mod tests;

//! Bases, read from the first to the last byte.

use std::collections::BTreeMap;

use futures::StreamExt;

use super::duplicates::{self, Found};
use super::second_reader::{self, Counts, Opinion};
use super::{HistoryReport, Request};
use crate::archive::{
    Archive, ArchiveError, BaseDigest, BaseManifest, Compared, FORMAT, History, Name, Reading,
    VerdictDoc,
};
use crate::recovery::Progress;
use crate::wire::position::ReplId;
use crate::wire::rdb::{Checksum, Summary, Walker};

/// Reads each base of a history. Those that are sound are recorded beside the base.
///
/// # Errors
/// When the store fails.
pub(super) async fn read(
    archive: &Archive,
    history: &History,
    request: Request,
    found: &mut HistoryReport,
    progress: &dyn Progress,
) -> Result<(), ArchiveError> {
    for (index, base) in history.bases.iter().enumerate() {
        match examined(archive, history, base, found, progress).await? {
            Ok((summary, opinion)) => {
                commit(archive, base, &summary, opinion, request, found).await;
            }
            Err(Fault { object, what }) => {
                found.problem(Some(object.to_string()), what, advice(history, index));
            }
        }
    }
    Ok(())
}

/// Why a base is not sound.
struct Fault {
    object: Name,
    what: String,
}

/// What is in a base that is sound, and what the second reader says of it.
async fn examined(
    archive: &Archive,
    history: &History,
    base: &BaseManifest,
    found: &mut HistoryReport,
    progress: &dyn Progress,
) -> Result<Result<(Summary, Opinion), Fault>, ArchiveError> {
    let fault = |what: String| {
        let object = Name::BaseData(base.position());
        Ok(Err(Fault { object, what }))
    };
    let summary = match walk(archive, base, found, progress).await {
        Ok(Ok(summary)) => summary,
        Ok(Err(why)) => return fault(why),
        Err(error @ ArchiveError::Store(_)) => return Err(error),
        Err(error) => return fault(error.to_string()),
    };
    if let Some(why) = stands_elsewhere(history, base, &summary) {
        return fault(why);
    }
    if let Some(what) = differs(base, &summary) {
        let object = Name::BaseManifest(base.position());
        return Ok(Err(Fault { object, what }));
    }
    let twice = if summary.unwalked.is_some() {
        Found::Unknown("our own reader does not know all of it".to_owned())
    } else {
        duplicates::find(archive, base).await?
    };
    match twice {
        Found::None => {}
        Found::Twice(db, key) => {
            return fault(format!(
                "key {key} is twice in database {db}: no server loads that"
            ));
        }
        Found::Unknown(why) => found.notes.push(format!(
            "the base at offset {}: it is not known whether a key is there twice: {why}",
            base.offset
        )),
    }
    let opinion = if summary.unwalked.is_some() {
        // What our own walker has not seen to its end is not given to another program.
        Opinion::None("our own reader does not know all of it".to_owned())
    } else {
        second_reader::opinion(archive, base).await?
    };
    if let Some(what) = refusal(&opinion, base) {
        return fault(what);
    }
    if let Opinion::None(why) = &opinion {
        found.notes.push(format!(
            "the base at offset {}: no second opinion: {why}",
            base.offset
        ));
    }
    if !is_identified(base) {
        found.notes.push(format!(
            "the base at offset {}: backfeed could not check that its bytes are those that were once stored: {}. \
             Its sizes, its RDB and its counts are right",
            base.offset,
            unidentified(base)
        ));
    }
    Ok(Ok((summary, opinion)))
}

/// What the second reader has against a base that ours accepted.
fn refusal(opinion: &Opinion, base: &BaseManifest) -> Option<String> {
    let reader = second_reader::READER;
    match opinion {
        Opinion::Refuses(why) => Some(format!("{reader} refuses what our reader accepted: {why}")),
        Opinion::Counted(counts) if *counts != Counts::of(base) => Some(format!(
            "{reader} counts other keys than our reader: {counts:?}"
        )),
        Opinion::Counted(_) | Opinion::None(_) => None,
    }
}

fn is_identified(base: &BaseManifest) -> bool {
    base.digest.as_ref().is_some_and(BaseDigest::is_known)
}

/// Why the bytes of a base could not be compared with its manifest.
fn unidentified(base: &BaseManifest) -> String {
    match &base.digest {
        None => "an earlier version wrote its manifest, without a digest".to_owned(),
        Some(digest) => format!(
            "its manifest has a digest of a kind that this build does not know ({})",
            digest.algorithm
        ),
    }
}

fn advice(history: &History, index: usize) -> String {
    let older = index
        .checked_sub(1)
        .and_then(|index| history.bases.get(index));
    match (older, history.doc.parent) {
        (Some(older), _) => format!(
            "a restore takes the base at offset {} and the log after it instead, as long as both are sound",
            older.offset
        ),
        (None, Some(parent)) => format!(
            "a restore takes a base of history {} and the log after it instead, as long as both are sound",
            parent.history
        ),
        (None, None) => super::until(
            history
                .bases
                .get(index.saturating_add(1))
                .map(|base| base.offset),
        ),
    }
}

/// Inside: why it is no sound RDB.
async fn walk(
    archive: &Archive,
    base: &BaseManifest,
    found: &mut HistoryReport,
    progress: &dyn Progress,
) -> Result<Result<Summary, String>, ArchiveError> {
    let mut walker = Walker::new();
    let mut bytes = archive.read_compared(base, Compared::Object).await?;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk?;
        match walker.push(&chunk) {
            Ok(taken) if taken == chunk.len() => {}
            Ok(_) => return Ok(Err("bytes follow the end of the RDB".to_owned())),
            Err(error) => return Ok(Err(error.to_string())),
        }
        found.bytes_read = found.bytes_read.saturating_add(chunk.len() as u64);
        progress.advance(chunk.len() as u64);
    }
    if let Err(error) = walker.finish_opaque() {
        return Ok(Err(error.to_string()));
    }
    Ok(Ok(walker.summary().clone()))
}

/// The RDB itself may name its position. This tells two bases apart whose manifests have no digest.
fn stands_elsewhere(history: &History, base: &BaseManifest, summary: &Summary) -> Option<String> {
    let says = |name: &str| summary.aux.get(name).map(String::as_str);
    let (id, offset) = (says("repl-id")?, says("repl-offset")?);
    let at = base.position();
    let id: ReplId = id.parse().ok()?;
    // A server says what it calls the history, which may have another key here; a base that was made from it says the
    // key.
    let is_its_own = id == at.history || Some(id) == history.doc.replid;
    let differs = !is_its_own || offset != at.offset.to_string();
    differs.then(|| {
        format!("the RDB in it names the position {id}:{offset}: it is the data of another base")
    })
}

/// What the manifest says otherwise than the bytes.
fn differs(base: &BaseManifest, summary: &Summary) -> Option<String> {
    let databases: BTreeMap<u32, (u64, u64)> = summary
        .databases
        .iter()
        .map(|(db, of)| (*db, (of.keys, of.expires)))
        .collect();
    let says: BTreeMap<u32, (u64, u64)> = base
        .databases
        .iter()
        .map(|(db, of)| (*db, (of.keys, of.expires)))
        .collect();
    let types: BTreeMap<&str, u64> = summary
        .types
        .iter()
        .map(|(name, keys)| (*name, *keys))
        .collect();
    let says_types: BTreeMap<&str, u64> = base
        .types
        .iter()
        .map(|(name, keys)| (name.as_str(), *keys))
        .collect();
    let what = if base.unwalked_from.is_some() {
        // Its writer knew less than we may do: the counts end early.
        return None;
    } else if databases != says {
        format!("it says keys by database {says:?}, and the base holds {databases:?}")
    } else if types != says_types {
        format!("it says keys by type {says_types:?}, and the base holds {types:?}")
    } else if base.functions != summary.functions {
        format!(
            "it says {} function libraries, and the base holds {}",
            base.functions, summary.functions
        )
    } else if base.rdb_magic != summary.magic {
        format!(
            "it says {}, and the base is {}",
            base.rdb_magic, summary.magic
        )
    } else if base.rdb_checksum != (summary.checksum == Checksum::Verified) {
        "its statement whether the RDB has a checksum is wrong".to_owned()
    } else {
        return None;
    };
    Some(what)
}

/// Records it beside the base. Where we may not write, everything else continues.
async fn commit(
    archive: &Archive,
    base: &BaseManifest,
    summary: &Summary,
    opinion: Opinion,
    request: Request,
    found: &mut HistoryReport,
) {
    let mut ours = vec![
        "stored size and checksums",
        "CRC-64",
        "structure",
        "keys by database",
        "keys by type",
        "functions",
    ];
    if is_identified(base) {
        ours.push("digests");
    }
    let own = Reading {
        reader: concat!("backfeed ", env!("CARGO_PKG_VERSION")).to_owned(),
        checks: ours.into_iter().map(str::to_owned).collect(),
        databases: Some(
            summary
                .databases
                .iter()
                .map(|(db, of)| (*db, of.keys))
                .collect(),
        ),
        no_opinion: summary
            .unwalked
            .as_ref()
            .map(|unwalked| unwalked.reason.clone()),
    };
    let (databases, no_opinion) = match opinion {
        Opinion::Counted(counts) => (Some(counts.databases), None),
        Opinion::Refuses(why) | Opinion::None(why) => (None, Some(why)),
    };
    let checks = if databases.is_some() {
        second_reader::CHECKS.map(str::to_owned).to_vec()
    } else {
        Vec::new()
    };
    let verdict = VerdictDoc {
        format: FORMAT,
        history: base.history,
        offset: base.offset,
        raw_bytes: base.raw_bytes,
        crc64: base.crc64.clone(),
        digest: base.digest.clone(),
        readings: vec![
            own,
            Reading {
                reader: second_reader::READER.to_owned(),
                checks,
                databases,
                no_opinion,
            },
        ],
        verified_unix_ms: request.now_unix_ms,
    };
    if let Err(error) = archive.commit_verdict(&verdict).await {
        found
            .verdicts_refused
            .get_or_insert_with(|| error.to_string());
    }
}

/// Reads a base to its end by both readers. If it is sound, that is recorded beside it.
///
/// Inside: why it is not sound. A base that our reader does not know all of, or that the second reader cannot read, is
/// sound as far as is known.
///
/// # Errors
/// When the store fails.
pub(super) async fn read_one(
    archive: &Archive,
    history: &History,
    base: &BaseManifest,
    request: Request,
    progress: &dyn Progress,
) -> Result<Result<(), String>, ArchiveError> {
    let mut found = HistoryReport::new(history);
    match examined(archive, history, base, &mut found, progress).await? {
        Ok((summary, opinion)) => {
            commit(archive, base, &summary, opinion, request, &mut found).await;
            Ok(Ok(()))
        }
        Err(Fault { object, what }) => Ok(Err(format!("{object}: {what}"))),
    }
}

//! The store: whether it does what an archive needs, and what is in it.

use super::{Findings, Wanted};
use crate::archive::{Archive, ArchiveError};
use crate::display::Time;
use crate::store;

/// Clocks that differ by less count as the same.
const CLOCK_TOLERANCE_MS: u64 = 10_000;

pub(super) async fn check(wanted: &Wanted, findings: &mut Findings) {
    let opened = match store::open_with(&wanted.store).await {
        Ok(store) => Archive::open_to_write(store, (wanted.now_unix_ms)()).await,
        Err(error) => Err(ArchiveError::from(error)),
    };
    let archive = match opened {
        Ok(archive) => archive,
        Err(error) => {
            findings.failed("reads, lists, creates once", error);
            return;
        }
    };
    findings.ok(
        "reads, lists, creates once",
        "an object that exists was not written over",
    );
    if let Err(error) = deletes(&archive, wanted, findings).await {
        findings.failed("creates", error);
        return;
    }
    if let Err(error) = content(&archive, wanted, findings).await {
        findings.failed("archive", error);
    }
}

/// Deletes an object that it creates for this, and compares the clocks.
async fn deletes(
    archive: &Archive,
    wanted: &Wanted,
    findings: &mut Findings,
) -> Result<(), ArchiveError> {
    const WHAT: &str = "deletes";
    let (created, deleted) = archive.try_deleting().await?;
    match deleted {
        Ok(()) => findings.ok(WHAT, "an object was created and deleted"),
        Err(error) if wanted.deletes => findings.failed_with(
            WHAT,
            error,
            "permit deletes, or let another identity delete (`backfeed expire`)",
        ),
        Err(error) => findings.warning(
            WHAT,
            format!("{error}. A service needs it only to take back a span that is wrong"),
            "nothing, if nothing is to be deleted by this identity",
        ),
    }
    let now = (wanted.now_unix_ms)();
    match created {
        Some(created) if created.abs_diff(now) > CLOCK_TOLERANCE_MS => findings.warning(
            "clock",
            format!(
                "the store says {}, this machine {}",
                Time(created),
                Time(now)
            ),
            "set the clock of this machine with NTP: points in time are its time",
        ),
        Some(_) => findings.ok("clock", "as that of this machine"),
        None if wanted.deletes => findings.failed(
            "clock",
            "the store says no times of creation, so nothing can be deleted from it",
        ),
        None => findings.unknown("clock", "the store says no times of creation"),
    }
    Ok(())
}

/// Whose archive it is, and what is the latest in it.
async fn content(
    archive: &Archive,
    wanted: &Wanted,
    findings: &mut Findings,
) -> Result<(), ArchiveError> {
    if let Some(sidecar) = &wanted.sidecar {
        match archive.recorded_owner().await? {
            Some(name) if name != sidecar.name => findings.failed_with(
                "owner",
                format!("it belongs to the sidecar `{name}`, and this one is `{}`", sidecar.name),
                "give this server a store or path of its own; or, if it is the same server, the recorded name",
            ),
            Some(name) => findings.ok("owner", format!("the sidecar `{name}`")),
            None => findings.ok("owner", format!("will be the sidecar `{}`", sidecar.name)),
        }
    }
    let service = match &wanted.sidecar {
        Some(_) => "sidecar".to_owned(),
        None => wanted.redis.service(),
    };
    let catalog = archive.outline().await?;
    match catalog.latest(Some(&service)) {
        Ok(None) => findings.ok("archive", "nothing is stored yet"),
        Ok(Some(latest)) => match archive.log_end(&catalog, latest).await {
            Ok(end) => {
                let history = catalog.histories.get(&latest);
                let writer = history.map_or("", |history| &history.doc.service);
                let text = format!(
                    "history {latest} of {writer} is the latest, to offset {}",
                    end.end
                );
                if writer == service {
                    findings.ok("archive", text);
                } else {
                    findings.warning(
                        "archive",
                        format!("{text}. This service would write as {service}"),
                        "if that is another server, give this one a store or path of its own",
                    );
                }
            }
            Err(error @ ArchiveError::Store(_)) => return Err(error),
            Err(error) => findings.warning(
                "archive",
                error,
                "see what `backfeed verify` says: a new full sync will be taken",
            ),
        },
        Err(several) if wanted.sidecar.is_some() => findings.failed("archive", several),
        Err(several) => findings.warning(
            "archive",
            several,
            "nothing for the backup itself: a restore must name the history",
        ),
    }
    Ok(())
}

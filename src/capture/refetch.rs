//! A new base of a history that is being captured, taken from the server. It is for a log that cannot be consolidated.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::captured_server::{look, server_info, wants_version};
use super::session::{REPLICA_VERSION, out_of_place};
use super::{Clock, FullSyncTurns, SessionEnd, full_sync, full_sync_turns};
use crate::archive::{Archive, BaseManifest};
use crate::config::Source;
use crate::link::Link;
use crate::monitoring::status::Status;
use crate::wire::position::Position;
use crate::wire::psync::replica::Event;

/// How long the log may take to reach the new base. It is the feed that arrived during the full sync.
const CATCH_UP: Duration = Duration::from_secs(600);
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Takes a full sync on a separate link, beside the running capture, and makes a base of it when the log has reached
/// it. The capture does not notice. `turns`: of the process, if it has several captures.
///
/// # Errors
/// [`SessionEnd`]; then nothing counts.
pub async fn new_base(
    source: &Source,
    archive: &Archive,
    status: &Status,
    clock: &Clock,
    turns: Option<&FullSyncTurns>,
) -> Result<BaseManifest, SessionEnd> {
    let turn = match turns {
        Some(turns) => Some(turns.next().await),
        None => None,
    };
    let facts = look(source).await?;
    let version = wants_version(facts.as_ref()).then_some(REPLICA_VERSION);
    let mut link = Link::connect_for_snapshot(source, version).await?;
    let at = match link.next().await? {
        Event::FullResync(at) => Position {
            history: archive.outline().await?.aliases().key(at.history),
            ..at
        },
        event => return Err(out_of_place(&event)),
    };
    let tally = status.full_sync_begun();
    let receive = full_sync::receive_payload(&mut link, archive, at, status);
    let received = full_sync_turns::during(turn, status, receive).await?;
    drop(link);
    let server = server_info(facts.as_ref());
    let manifest = received.finish(archive, server, clock()).await?;
    let begun = Instant::now();
    loop {
        // A base beyond the end of the log would be a hole in it.
        match status.stored_position() {
            Some(stored) if stored.history == at.history && stored.offset >= at.offset => break,
            _ if begun.elapsed() > CATCH_UP => {
                return Err(SessionEnd::StartOver(format!(
                    "the log did not reach the new snapshot at {at} in {} s",
                    CATCH_UP.as_secs()
                )));
            }
            _ => sleep(LOOK_PAUSE).await,
        }
    }
    archive.commit_base(&manifest).await?;
    tally.stored(manifest.position(), manifest.as_of_unix_ms());
    Ok(manifest)
}

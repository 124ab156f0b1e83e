//! A target that keeps an append-only file is restored when the data are in it: after a full sync a server writes all of them anew,
//! and a crash before the end of that leaves it with nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::link::health::Aof;
use crate::recovery::progress::{Progress, Stage};
use crate::restore::error::RestoreError;
use crate::restore::server::Target;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// A rewrite that takes longer is left to itself, and that is told.
const REWRITE_LIMIT: Duration = Duration::from_secs(600);
/// A server tries again by itself, at once. One that has not come to anything in this time may need help.
const FAILED_LIMIT: Duration = Duration::from_secs(20);

impl Target<'_> {
    /// Waits until the append-only file of an open target holds what it was given, if it keeps one.
    pub(crate) async fn wait_for_file(
        &mut self,
        progress: &dyn Progress,
    ) -> Result<(), RestoreError> {
        let begun = Instant::now();
        let mut is_told = false;
        let mut failed_since = None;
        loop {
            let facts = self.ask().await.map_err(|error| {
                self.differs(format!(
                    "it could not be asked whether its append-only file holds that: {error}. Until `INFO persistence` there says \
                     aof_rewrite_in_progress:0 and aof_last_bgrewrite_status:ok, a crash loses it"
                ))
            })?;
            match facts.health.aof {
                Aof::Off | Aof::Whole => return Ok(()),
                Aof::Rewriting => failed_since = None,
                Aof::Failed => {
                    let since = failed_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > FAILED_LIMIT {
                        return Err(self.differs(
                            "its append-only file could not be written (aof_last_bgrewrite_status), so that a crash would lose what was \
                             restored: its own log says why; mend its disk, and run BGREWRITEAOF there"
                                .to_owned(),
                        ));
                    }
                }
            }
            if begun.elapsed() > REWRITE_LIMIT {
                self.note(
                    "its append-only file is being written still: a crash of the server before `INFO persistence` says \
                     aof_rewrite_in_progress:0 and aof_last_bgrewrite_status:ok loses what was restored"
                        .to_owned(),
                );
                return Ok(());
            }
            if !std::mem::replace(&mut is_told, true) {
                progress.stage(Stage::Rewriting, None);
            }
            sleep(LOOK).await;
        }
    }
}

//! A target that keeps append-only files is restored only when the data are in them. After a full sync, a server
//! rewrites all of them. A crash before the end of that leaves it with nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::link::health::Aof;
use crate::recovery::progress::{Progress, Stage};
use crate::restore::error::RestoreError;
use crate::restore::server::Target;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// We do not wait for a rewrite that takes longer; the report says so.
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
                    "it could not be asked whether its append-only file holds the data: {error}. A crash loses the \
                     data until `INFO persistence` says aof_rewrite_in_progress:0 and aof_last_bgrewrite_status:ok"
                ))
            })?;
            match facts.health.aof {
                Aof::Off | Aof::Whole => return Ok(()),
                Aof::Rewriting => failed_since = None,
                Aof::Failed => {
                    let since = failed_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > FAILED_LIMIT {
                        return Err(self.differs(
                            "its append-only file could not be written (aof_last_bgrewrite_status), and a crash would \
                             lose what was restored. Its own log says why. Repair its disk, then run: redis-cli \
                             BGREWRITEAOF"
                                .to_owned(),
                        ));
                    }
                }
            }
            if begun.elapsed() > REWRITE_LIMIT {
                self.note(
                    "its append-only file is still being written. A crash loses what was restored until `INFO \
                     persistence` says aof_rewrite_in_progress:0 and aof_last_bgrewrite_status:ok"
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

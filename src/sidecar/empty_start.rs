//! How a Redis begins when the store is empty: with an empty base, which is stored before Redis takes a write.
//!
//! Redis gets that base under the id of a new history, like any other stored base. So it continues the history from the
//! first write on, without a full sync. A write that `WAIT` confirms is in the log at once, and the next Redis finds a
//! history.

use std::collections::BTreeMap;

use super::Sidecar;
use super::decision::Tip;
use crate::archive::takeover::SuccessionError;
use crate::archive::{ArchiveError, FORMAT, HistoryDoc, ServerInfo, begins_at};
use crate::link::replication_info::Facts;
use crate::runtime;
use crate::wire::position::ReplId;

/// Is there nothing in it that an empty base would take away?
pub(super) fn is_blank(facts: &Facts) -> bool {
    facts.total_keys() == 0 && facts.libraries == 0
}

impl Sidecar {
    /// Begins the first history of the store, with an empty base. None: another sidecar was first.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub(super) async fn begin(&self, facts: &Facts) -> Result<Option<Tip>, ArchiveError> {
        let (archive, writer) = (self.capture.archive(), self.capture.writer());
        let doc = HistoryDoc {
            format: FORMAT,
            id: ReplId::from_random(runtime::random_bytes()),
            replid: None,
            parent: None,
            previous: None,
            also_previous: Vec::new(),
            service: self.capture.service().to_owned(),
            server: ServerInfo {
                flavour: facts.flavour.clone(),
                version: facts.version.clone(),
            },
            run_id: None,
            created_unix_ms: (self.clock)(),
        };
        match archive.begin_first(&doc, None, writer).await {
            Ok(()) => {}
            Err(SuccessionError::GoesOn(other)) => {
                tracing::info!("{}", other.says());
                return Ok(None);
            }
            Err(error @ SuccessionError::Beside(_)) => {
                tracing::info!("{error}");
                return Ok(None);
            }
            Err(SuccessionError::Archive(error)) => return Err(error),
        }
        let end = begins_at(&doc);
        tracing::info!(at = %end, "the store and Redis are empty: storing an empty base, with which the history \
                                   begins");
        Ok(Some(Tip {
            end,
            ancestors: Vec::new(),
            replaced: BTreeMap::new(),
        }))
    }
}

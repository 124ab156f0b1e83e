//! Without a server: an RDB is read by two readers, ours and one that is not.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

use super::DrillError;
use crate::query::inspect::{Inspection, Inspector};
use crate::restore;
use crate::verify::{Counts, Opinion, opinion_of};

/// The bytes of a file that are read at once.
const PIECE: usize = 1 << 20;

/// Reads every value, and compares the numbers of keys. Returns why there is no second opinion, if there is none.
pub(super) async fn read(
    path: &Path,
    made: &restore::Report,
) -> Result<Option<String>, DrillError> {
    let ended =
        |error: tokio::task::JoinError| DrillError::Rdb(format!("its reader ended: {error}"));
    let ours: PathBuf = path.to_owned();
    let inspected = spawn_blocking(move || inspect(&ours))
        .await
        .map_err(ended)??;
    let values = inspected.values.clone().unwrap_or_default();
    if values.bad > 0 {
        let first = values.problems.first();
        let first = first.map_or_else(String::new, |bad| {
            format!(", as that of {:?}: {}", bad.key, bad.why)
        });
        return Err(DrillError::Rdb(format!(
            "{} values cannot be read{first}",
            values.bad
        )));
    }
    let databases = inspected.databases.iter();
    let counted = Counts::told(
        databases.map(|(db, counts)| (*db, counts.keys)),
        &inspected.types,
    );
    if !made.keys_before_log && counted.databases != made.keys {
        return Err(DrillError::Rdb(format!(
            "keys by database are {:?}, and should be {:?}",
            counted.databases, made.keys
        )));
    }
    let theirs: PathBuf = path.to_owned();
    let magic = inspected.rdb_magic.clone();
    let opinion = spawn_blocking(move || {
        let file =
            std::fs::File::open(&theirs).map_err(|error| DrillError::Rdb(error.to_string()))?;
        Ok::<_, DrillError>(opinion_of(BufReader::with_capacity(PIECE, file), &magic))
    });
    match opinion.await.map_err(ended)?? {
        Opinion::Counted(second) if second == counted => Ok(None),
        Opinion::Counted(second) => Err(DrillError::Rdb(format!(
            "two readers count differently: {counted:?} and {second:?}"
        ))),
        Opinion::Refuses(why) => Err(DrillError::Rdb(why)),
        Opinion::None(why) => Ok(Some(format!("no second opinion: {why}"))),
    }
}

fn inspect(path: &Path) -> Result<Inspection, DrillError> {
    use std::io::Read;
    let failed = |error: &dyn std::fmt::Display| DrillError::Rdb(error.to_string());
    let mut file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let mut inspector = Inspector::of_values(0);
    let mut piece = vec![0; PIECE];
    loop {
        let length = file.read(&mut piece).map_err(|error| failed(&error))?;
        let Some(bytes) = piece.get(..length).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        inspector.push(bytes).map_err(|error| failed(&error))?;
    }
    let inspected = inspector.finish().map_err(|error| failed(&error))?;
    match &inspected.unread_reason {
        Some(why) => Err(DrillError::Rdb(why.clone())),
        None => Ok(inspected),
    }
}

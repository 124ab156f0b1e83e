//! Notices that the file has changed, by its content: a `ConfigMap` of Kubernetes is replaced through symbolic links, and
//! editors write a new file in the place of the old one.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::runtime;

/// Between two looks. A new content counts when two looks have seen it: it may be in the middle of being written.
const LOOK: Duration = Duration::from_secs(1);
/// Between two tries of a file that cannot be used.
const AGAIN: Duration = Duration::from_secs(10);
/// A longer file is certainly the wrong one: a thousand sources take a tenth of this.
const LENGTH_MAX: u64 = 4 << 20;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// This is in it now.
    Text(String),
    /// It cannot be read: why.
    Unreadable(String),
}

/// The file, and what was found last.
pub(super) struct WatchedFile {
    path: PathBuf,
    last: Change,
}

impl WatchedFile {
    /// `text`: what was read at the start.
    pub(super) fn new(path: PathBuf, text: String) -> Self {
        Self {
            path,
            last: Change::Text(text),
        }
    }

    /// Waits for another content, or for `hangup`, and then says what there is. The future may be dropped. `failed`: what was
    /// found last could not be used. It is given again after a while: a file that it names may be there by then.
    pub(super) async fn change(&mut self, hangup: &Notify, failed: bool) -> Change {
        let mut seen: Option<Change> = None;
        let begun = Instant::now();
        loop {
            let is_asked = tokio::select! {
                biased;
                () = hangup.notified() => true,
                () = sleep(LOOK) => false,
            };
            let found = self.look().await;
            let is_late = failed && begun.elapsed() >= AGAIN;
            if is_asked || is_late || (found != self.last && seen.as_ref() == Some(&found)) {
                self.last = found.clone();
                return found;
            }
            seen = Some(found);
        }
    }

    async fn look(&self) -> Change {
        let path = self.path.clone();
        match runtime::spawn_blocking(move || read(&path)).await {
            Ok(Ok(text)) => Change::Text(text),
            Ok(Err(why)) => Change::Unreadable(why),
            Err(error) => Change::Unreadable(error.to_string()),
        }
    }
}

/// Reads the file. The error says why it cannot be used.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let told = |error: io::Error| format!("cannot read it: {error}");
    let mut bytes = Vec::new();
    let mut file = File::open(path).map_err(told)?.take(LENGTH_MAX);
    file.read_to_end(&mut bytes).map_err(told)?;
    if bytes.len() as u64 == LENGTH_MAX {
        return Err(format!(
            "it has {LENGTH_MAX} bytes or more: is it the right file?"
        ));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    fn text(text: &str) -> Change {
        Change::Text(text.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_when_it_was_seen_twice_or_when_asked() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("f.toml");
        fs::write(&path, "one").unwrap();
        let mut watched = WatchedFile::new(path.clone(), "one".to_owned());
        let hangup = Notify::new();
        assert!(
            timeout(10 * LOOK, watched.change(&hangup, false))
                .await
                .is_err()
        );
        fs::write(&path, "two").unwrap();
        let begun = Instant::now();
        assert_eq!(watched.change(&hangup, false).await, text("two"));
        assert!(begun.elapsed() >= 2 * LOOK);
        // Whatever is in it, it is read when that is wanted.
        hangup.notify_one();
        let begun = Instant::now();
        assert_eq!(watched.change(&hangup, false).await, text("two"));
        assert!(begun.elapsed() < LOOK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_behind_a_link_is_read_anew_and_one_that_is_gone_is_told_once() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for name in ["one", "two"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("f.toml"), name).unwrap();
        }
        // As kubelet does it.
        symlink("one", at("..data")).unwrap();
        symlink("..data/f.toml", at("f.toml")).unwrap();
        let mut watched = WatchedFile::new(at("f.toml"), "one".to_owned());
        let hangup = Notify::new();
        symlink("two", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(watched.change(&hangup, false).await, text("two"));
        fs::remove_file(at("f.toml")).unwrap();
        let gone = watched.change(&hangup, false).await;
        assert!(matches!(gone, Change::Unreadable(_)), "{gone:?}");
        assert!(
            timeout(10 * LOOK, watched.change(&hangup, false))
                .await
                .is_err()
        );
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read_to_its_end() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("f.toml");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(read(&path).unwrap_err().contains("the right file"));
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(read(&path).unwrap_err(), "it is not UTF-8");
    }
}

//! A writer that slept while the log went on, and while expiry deleted what it began with: it acknowledges nothing that
//! nobody restores, and ends. What expiry may delete is deleted by hand.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::s3::S3;
use crate::support::{Backfeed, Env, Server, Version, list_with, on, run_with, wait_until};

const QUICK: &[&str] = &["--flush-interval", "50ms", "--consolidate-every", "never"];

/// A store from which a test can delete.
enum Place {
    Files(TempDir),
    S3(S3),
}

impl Place {
    fn files() -> Self {
        Self::Files(TempDir::new().unwrap())
    }

    fn url(&self) -> String {
        match self {
            Self::Files(home) => format!("file://{}/bucket", home.path().display()),
            Self::S3(_) => "s3://bucket/b".to_owned(),
        }
    }

    fn env(&self) -> Env {
        match self {
            Self::Files(_) => Vec::new(),
            Self::S3(s3) => s3.environment(),
        }
    }

    fn backup(&self, server: &Server) -> Backfeed {
        let (url, store) = (server.url(), self.url());
        let args = [&["backup", "--redis", &url, "--store", &store], QUICK].concat();
        let backup = Backfeed::start_with(self.env(), &args);
        backup.wait_following();
        backup
    }

    /// The names of a history's log, in order.
    fn log(&self, history: &str) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Files(home) => {
                let log = home.path().join(format!("bucket/histories/{history}/log"));
                let found = fs::read_dir(log).into_iter().flatten();
                let path = |entry: fs::DirEntry| entry.path().display().to_string();
                found.map(|entry| path(entry.unwrap())).collect()
            }
            Self::S3(s3) => {
                let folder = format!("/{history}/log/");
                let names = s3.names().into_iter();
                names.filter(|name| name.contains(&folder)).collect()
            }
        };
        names.sort();
        names
    }

    fn delete(&self, name: &str) {
        match self {
            Self::Files(_) => fs::remove_file(name).unwrap(),
            Self::S3(s3) => s3.delete(name),
        }
    }

    /// Deletes the log of a history, but for its last objects.
    fn expire(&self, history: &str, stay: usize) {
        let log = self.log(history);
        assert!(log.len() > stay, "{log:?}");
        for name in &log[..log.len() - stay] {
            self.delete(name);
        }
    }

    /// A fresh server takes the history over.
    fn continued(&self, version: Version) -> Server {
        let target = Server::start(version, &[]);
        let (store, to) = (self.url(), target.url());
        let args = [
            "restore",
            "--continue-history",
            "--store",
            &store,
            "--to",
            &to,
        ];
        let output = run_with(&self.env(), &args);
        assert_eq!(output.code, 0, "{output:?}");
        target
    }

    /// What was confirmed is there, and goes on to be.
    fn check(&self, version: Version, target: &Server, keys: &[&str]) {
        let mut backup = self.backup(target);
        assert_eq!(target.set_and_wait(0, "on the new one", 1, 10_000), 1);
        assert_eq!(backup.sigterm(), 0);
        let copy = Server::start(version, &[]);
        let (store, to) = (self.url(), copy.url());
        let output = run_with(&self.env(), &["restore", "--store", &store, "--to", &to]);
        assert_eq!(output.code, 0, "{output:?}");
        let wanted: BTreeSet<&str> = keys.iter().copied().chain(["on the new one"]).collect();
        for key in &wanted {
            assert_eq!(copy.text(&["EXISTS", key]), "1", "{key}");
        }
        assert_eq!(copy.text(&["EXISTS", "lost"]), "0");
        let listing = list_with(&self.env(), &store);
        assert_eq!(listing["ambiguous"], serde_json::json!([]), "{listing:#}");
    }
}

/// The sleeper wakes. Its server has clients still.
fn wakes_and_ends(old: &Server, asleep: &mut Backfeed) {
    asleep.signal("CONT");
    assert_eq!(old.set_and_wait(0, "lost", 1, 5000), 0);
    assert_eq!(asleep.wait_exit(), 5, "{}", asleep.log());
    let log = asleep.log();
    assert!(log.contains("superseded"), "{log}");
    assert_eq!(old.set_and_wait(0, "lost", 1, 500), 0);
}

/// Another listener goes on with the log, and a new server takes it over.
fn is_passed(place: &Place, old: &Server, version: Version) -> Server {
    let mut other = place.backup(old);
    for key in ["one", "two", "three"] {
        assert_eq!(old.set_and_wait(0, key, 1, 10_000), 1);
    }
    // A base stays where the log is deleted up to it.
    let store = place.url();
    let output = run_with(&place.env(), &["consolidate", "--store", &store]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(old.set_and_wait(0, "four", 1, 10_000), 1);
    other.kill9();
    place.continued(version)
}

fn one_that_slept_before_its_first_segment_ends(version: Version) {
    let place = Place::files();
    let old = Server::start(version, &[]);
    let mut asleep = place.backup(&old);
    let (history, _) = old.position();
    asleep.signal("STOP");
    let stored = place.log(&history).len();
    let target = is_passed(&place, &old, version);
    assert!(place.log(&history).len() >= stored + 4);
    // The seal alone stays.
    place.expire(&history, 1);
    wakes_and_ends(&old, &mut asleep);
    place.check(version, &target, &["one", "four"]);
}
on!(one_that_slept_before_its_first_segment_ends: redis_70 = Redis70, redis_80 = Redis80, redis_86 = Redis86, valkey_91 = Valkey91);

/// The service says how late it is. The last segment stays too.
fn one_that_slept_for_hours_ends(version: Version) {
    let place = Place::S3(S3::start());
    let Place::S3(s3) = &place else {
        return;
    };
    let old = Server::start(version, &[]);
    let mut asleep = place.backup(&old);
    assert_eq!(old.set_and_wait(0, "first", 1, 10_000), 1);
    let (history, _) = old.position();
    asleep.signal("STOP");
    let target = is_passed(&place, &old, version);
    s3.set_ahead(Duration::from_secs(3 * 3600));
    // The last segment stays too.
    place.expire(&history, 2);
    wakes_and_ends(&old, &mut asleep);
    place.check(version, &target, &["first", "three", "four"]);
}
on!(one_that_slept_for_hours_ends: redis_70 = Redis70, redis_80 = Redis80, valkey_91 = Valkey91);

/// As a lifecycle rule of a bucket would do it, in spite of all documents.
fn one_whose_seal_was_deleted_ends(version: Version) {
    let place = Place::files();
    let old = Server::start(version, &[]);
    let mut asleep = place.backup(&old);
    let (history, _) = old.position();
    wait_until("its feed is here", PATIENCE, || {
        old.info("replication")["connected_slaves"] == "1"
    });
    asleep.signal("STOP");
    let target = place.continued(version);
    for name in place.log(&history) {
        place.delete(&name);
    }
    wakes_and_ends(&old, &mut asleep);
    place.check(version, &target, &[]);
}
on!(one_whose_seal_was_deleted_ends: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

#[test]
fn a_steady_writer_lists_nothing() {
    let place = Place::S3(S3::start());
    let Place::S3(s3) = &place else {
        return;
    };
    let server = Server::start(Version::Redis70, &[]);
    let _backup = place.backup(&server);
    assert_eq!(server.set_and_wait(0, "first", 1, 10_000), 1);
    s3.asked();
    for n in 0..100 {
        assert_eq!(server.set_and_wait(0, &format!("key {n}"), 1, 10_000), 1);
    }
    let asked = s3.asked();
    let creates = asked
        .iter()
        .filter(|asked| asked.is("PUT", "/log/"))
        .count();
    assert!(creates >= 100, "{creates}");
    let others: Vec<_> = asked.iter().filter(|asked| asked.verb != "PUT").collect();
    assert!(others.is_empty(), "{others:?}");
    // The service says that hours have passed.
    s3.set_ahead(Duration::from_secs(3 * 3600));
    for (key, looks) in [("later", 1), ("and later", 0)] {
        assert_eq!(server.set_and_wait(0, key, 1, 10_000), 1);
        let asked = s3.asked();
        let lists = asked.iter().filter(|asked| asked.is("LIST", "/log/"));
        assert_eq!(lists.count(), looks, "{asked:?}");
    }
}

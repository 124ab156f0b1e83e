//! A server whose machine is set back to a snapshot of its memory: the same replication id, an older offset, and from there on other
//! bytes. By script, as nothing else does that to a process at will.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::master::{Manner, Master, Recording};
use crate::support::{Backfeed, Proxy, Server, Version, list, run};

const GREETING: &[u8] = b"good bye";
/// As long as that, so that not even offsets tell the two apart.
const OTHER: &[u8] = b"come in!";

/// What the server says when it goes on from its snapshot: the same first half, then something else.
fn set_back(recording: &Recording, more: bool) -> Recording {
    let at = recording
        .feed
        .windows(GREETING.len())
        .position(|bytes| bytes == GREETING)
        .unwrap();
    let mut feed = recording.feed.clone();
    feed[at..at + OTHER.len()].copy_from_slice(OTHER);
    if more {
        feed.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$5\r\nlater\r\n$1\r\n1\r\n");
    } else {
        // It has not come so far again.
        let boundaries = recording.boundaries();
        let end = boundaries[boundaries.len() - 2] - recording.offset;
        feed.truncate(usize::try_from(end).unwrap());
    }
    Recording {
        feed,
        ..recording.clone()
    }
}

fn manner(backlog: bool) -> Manner {
    Manner {
        backlog,
        // A master that is behind was set back.
        replica: backlog,
        ..Manner::default()
    }
}

fn stored(backfeed: &Backfeed, recording: &Recording) {
    backfeed.wait("all is stored", |view| {
        view["received_offset"] == recording.end() && view["lag_bytes"] == 0
    });
}

fn greeting(store: &str, history: &str) -> (Server, String) {
    let copy = Server::start(Version::Redis70, &[]);
    let url = copy.url();
    let output = run(&[
        "restore",
        "--store",
        store,
        "--history",
        history,
        "--to",
        &url,
    ]);
    assert_eq!(output.code, 0, "{output:?}");
    let greeting = copy.text(&["GET", "greeting"]);
    (copy, greeting)
}

/// `more`: it has written more than before by the time that we ask again. `restarts`: we are another process by then.
#[track_caller]
fn what_it_does_then_is_a_history_of_its_own(more: bool, restarts: bool) {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let before = Recording::of(Version::Redis70);
    let after = set_back(&before, more);
    let first = Master::start(&before, manner(more));
    let proxy = Proxy::to(first.port());
    let mut backfeed = Backfeed::backup(&proxy.url(), &store, &["--flush-interval", "50ms"]);
    stored(&backfeed, &before);

    let second = Master::start(&after, manner(more));
    if restarts {
        backfeed.kill9();
    }
    proxy.lead_to(second.port());
    if restarts {
        backfeed.restart();
    }
    backfeed.wait("it follows a history of its own", |view| {
        view["phase"] == "following" && view["history"] != *before.id
    });
    stored(&backfeed, &after);
    assert!(second.seen().acked <= after.end());

    let listing = list(&store);
    assert_eq!(listing["ambiguous"], json!([]), "{listing:#}");
    let latest = listing["latest"].as_str().unwrap();
    assert_ne!(latest, before.id);
    let histories = listing["histories"].as_array().unwrap();
    assert_eq!(histories.len(), 2, "{listing:#}");
    let own = histories
        .iter()
        .find(|history| history["id"] == latest)
        .unwrap();
    assert_eq!(own["replid"], *before.id, "{listing:#}");
    assert_eq!(own["previous"]["history"], *before.id, "{listing:#}");
    assert_eq!(own["previous"]["offset"], before.end(), "{listing:#}");

    let old = greeting(&store, &before.id);
    assert_eq!(old.1, "good bye");
    assert_eq!(
        old.0.text(&["EXISTS", "list"]),
        "0",
        "all that was stored before"
    );
    let new = greeting(&store, latest);
    assert_eq!(new.1, "come in!");
    assert_eq!(
        new.0.text(&["EXISTS", "later"]),
        if more { "1" } else { "0" }
    );
    let output = run(&["verify", "--deep", "--store", &store]);
    assert_eq!(output.code, 0, "{output:?}");

    // It goes on with that.
    backfeed.kill9();
    backfeed.restart();
    backfeed.wait("it goes on", |view| view["phase"] == "following");
    stored(&backfeed, &after);
    let again: Value = list(&store);
    assert_eq!(again["histories"].as_array().unwrap().len(), 2, "{again:#}");
    assert_eq!(second.seen().full_syncs, 1);
}

#[test]
fn a_server_that_is_behind_what_is_stored() {
    what_it_does_then_is_a_history_of_its_own(false, false);
}

#[test]
fn a_server_that_is_behind_what_is_stored_and_a_new_process() {
    what_it_does_then_is_a_history_of_its_own(false, true);
}

#[test]
fn a_server_that_has_overtaken_what_is_stored() {
    what_it_does_then_is_a_history_of_its_own(true, false);
}

#[test]
fn a_server_that_has_overtaken_what_is_stored_and_a_new_process() {
    what_it_does_then_is_a_history_of_its_own(true, true);
}

/// What comes after one point is no feed, again and again: a full sync leads out of that.
#[test]
fn noise_at_one_point_for_ever_leads_to_a_full_sync() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let recording = Recording::of(Version::Redis70);
    let manner = Manner {
        noise_after_continue: Some(b"$5\r\nnoise\r\n"),
        ..manner(true)
    };
    let master = Master::start(&recording, manner);
    let proxy = Proxy::to(master.port());
    let backfeed = Backfeed::backup(&proxy.url(), &store, &["--flush-interval", "50ms"]);
    stored(&backfeed, &recording);
    proxy.lead_to(master.port());
    backfeed.wait("it takes a full sync of its own accord", |view| {
        view["phase"] == "following" && view["history"] != *recording.id
    });
    assert_eq!(master.seen().full_syncs, 2);
    assert_eq!(master.seen().continues, 3);
    let latest = list(&store)["latest"].as_str().unwrap().to_owned();
    let (copy, text) = greeting(&store, &latest);
    assert_eq!(
        (text.as_str(), copy.text(&["EXISTS", "list"]).as_str()),
        ("good bye", "0")
    );
}

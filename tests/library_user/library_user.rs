//! backfeed without Cargo features, as a user of the library has it: what is left out of the build is refused by the name
//! of its feature, and what is left works.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use backfeed::config::{Admission, ListenTls, Source};
use backfeed::fixture::{self, Options, Replay};
use backfeed::{link, store};

#[tokio::test]
async fn a_store_that_is_not_built_in_is_refused_by_the_name_of_its_feature() {
    for (url, feature) in [
        ("gs://b/p", "gcs"),
        ("s3://b/p", "s3"),
        ("az://c/p", "azure"),
    ] {
        let error = store::open(url).await.expect_err(url);
        assert!(!error.is_transient(), "{error}");
        let error = error.to_string();
        assert!(error.contains(url), "{error}");
        let named = format!("with the Cargo feature `{feature}`");
        assert!(error.ends_with(&named), "{error}");
    }
    let there = store::open("file:///some/where").await;
    assert_eq!(there.expect("a store").url(), "file:///some/where");
}

#[test]
fn tls_that_is_not_built_in_is_refused_and_never_left_out() {
    let named = "with the Cargo feature `tls`";
    let error = "rediss://localhost".parse::<Source>().expect_err("no TLS");
    assert!(error.to_string().ends_with(named), "{error}");
    assert!("redis://localhost".parse::<Source>().is_ok());

    let served = Admission {
        tls: Some(ListenTls {
            cert: "cert.pem".into(),
            key: "key.pem".into(),
            client_ca: None,
        }),
        ..Admission::default()
    };
    let error = link::accept::check(&served).expect_err("no TLS");
    assert!(error.to_string().ends_with(named), "{error}");
}

#[test]
fn a_fixture_is_played() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../proto-fixtures/hand-made/minimal"
    );
    let recording = fixture::load(path.as_ref()).expect("a fixture");
    let replay = Replay::new(&recording, Options::default()).expect("a replay");
    assert!(!replay.transcript().feed.is_empty());
}

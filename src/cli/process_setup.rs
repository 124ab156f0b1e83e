//! What the process asks of the system before anything else.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

use crate::restore::{HANDSHAKES_AT_ONCE, WAITING_REPLICAS};

/// File descriptors that connections of others may take.
const FOR_OTHERS: usize = PROBES + HANDSHAKES_AT_ONCE + WAITING_REPLICAS;
#[cfg(feature = "http")]
const PROBES: usize = crate::service::http::CONNECTIONS;
#[cfg(not(feature = "http"))]
const PROBES: usize = 0;
/// For Redis, the store (its connections, files that are written and read beside each other), the spool, the log, the runtime.
const FOR_US: usize = 128;
/// The least that a process can be given; shells and containers give 1,024 and more.
const LEAST: usize = 256;
const _: () = assert!(FOR_OTHERS + FOR_US <= LEAST);

/// Whoever may not read Redis may not read what is made of it either: not the store, not what is restored, not the spool. And as many
/// file descriptors as the system allows: others open connections to us, and the store must not go without.
pub fn prepare() {
    umask(Mode::RWXG | Mode::RWXO);
    let files = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    // With fewer it goes on as well.
    let _ = setrlimit(Resource::Nofile, most);
}

/// What an operator should change.
pub(super) fn warning() -> Option<String> {
    let allowed = getrlimit(Resource::Nofile).current?;
    (allowed < LEAST as u64).then(|| {
        format!(
            "only {allowed} files may be open at once, which may be too few when many connect: allow {LEAST} or more (`ulimit -n`, \
             LimitNOFILE)"
        )
    })
}

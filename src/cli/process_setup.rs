//! Limits and modes that the process sets for itself before anything else.

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
/// For each further source: two connections to its server, some to its store.
const FOR_A_SOURCE: usize = 8;
/// The least that a process can be given; shells and containers give 1,024 and more.
const LEAST: usize = 256;
const _: () = assert!(FOR_OTHERS + FOR_US <= LEAST);

/// Sets a umask, because the store, restored files and the spool hold the data of Redis: only our user may read them. Raises the
/// number of file descriptors to what the system allows: connections from outside must not take those that the store needs.
pub fn prepare() {
    umask(Mode::RWXG | Mode::RWXO);
    let files = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    // It works with fewer, too.
    let _ = setrlimit(Resource::Nofile, most);
}

/// What an operator should change, for a process with so many sources.
pub(super) fn warning(sources: usize) -> Option<String> {
    let allowed = getrlimit(Resource::Nofile).current?;
    let more = sources.saturating_sub(1).saturating_mul(FOR_A_SOURCE);
    let least = LEAST.saturating_add(more);
    (allowed < least as u64).then(|| {
        format!(
            "only {allowed} files may be open at once, which may be too few when many connect: allow {least} or more (`ulimit -n`, \
             LimitNOFILE)"
        )
    })
}

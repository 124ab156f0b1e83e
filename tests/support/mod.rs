//! What the tests share: real servers, the real program, clients that write, a master by script.

pub mod backfeed;
pub mod captured;
pub mod certs;
pub mod cgroup;
pub mod cluster;
pub mod data;
pub mod emulator;
pub mod ledger;
pub mod load;
pub mod master;
pub mod proxy;
pub mod random;
pub mod s3;
pub mod server;
pub mod spans;
pub mod state;
pub mod write;

pub use backfeed::{Backfeed, Env, Output, list, list_with, restored, run, run_with};
#[allow(unused_imports)] // the benchmark uses less
pub use emulator::{Cloud, Cut, Emulator, Fault, Gcs, Seen, Way};
pub use ledger::{Ledger, last_unit};
pub use load::Load;
pub use proxy::Proxy;
pub use random::Random;
pub use server::{Server, Version, free_port, wait_until};

/// One test a version, named after it: `on!(check: redis_70 = Redis70);` calls `check(Version::Redis70)`.
macro_rules! on {
    ($check:ident: $($name:ident = $version:ident),+ $(,)?) => {
        mod $check {
            $(
                #[test]
                fn $name() {
                    super::$check($crate::support::Version::$version);
                }
            )+
        }
    };
}
pub(crate) use on;

//! What the tests share: real servers, the real program, clients that write.

pub(crate) mod backfeed;
pub(crate) mod load;
pub(crate) mod server;

pub(crate) use backfeed::{Backfeed, list, restored, run};
pub(crate) use load::Load;
pub(crate) use server::{Server, Version, free_port, wait_until};

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

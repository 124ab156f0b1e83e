//! The tests of backfeed: one binary, real servers.

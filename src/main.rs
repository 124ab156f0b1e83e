//! The `backfeed` command.

fn main() {}

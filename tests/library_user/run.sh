#!/usr/bin/env bash
# Builds and tests backfeed as a user of the library without Cargo features does: `tests/library_user/run.sh`.
set -euo pipefail
cd "$(dirname "$0")"

# The same versions of everything as the program.
cp ../../Cargo.lock Cargo.lock
cargo test --quiet --target-dir ../../target/library_user

#!/usr/bin/env bash
# Runs all tests on a machine that has Rust and little else: `tests/run.sh [arguments for the test runner]`.
# Gets what is missing: a C compiler (libzstd is built from source), the zstd tool, the servers to test against.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo >/dev/null || {
    echo "tests/run.sh: there is no cargo; install Rust first" >&2
    exit 1
}
if ! command -v cc >/dev/null; then
    echo "installing a C compiler" >&2
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -q >/dev/null
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y build-essential >/dev/null
fi

# Absolute, as tests change directory.
servers=${BACKFEED_TEST_SERVERS:-$PWD/target/test-servers}
tests/servers.sh "$servers"
BACKFEED_TEST_SERVERS=$(cd "$servers" && pwd)
export BACKFEED_TEST_SERVERS

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --config-file tests/nextest.toml --locked "$@"
    cargo test --doc --locked # nextest does not run these
else
    RUST_TEST_THREADS=${RUST_TEST_THREADS:-4} cargo test --locked "$@"
fi

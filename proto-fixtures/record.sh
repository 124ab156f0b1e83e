#!/usr/bin/env bash
# Records the corpus anew, with the servers that tests/servers.sh gets. All of it, or the scenarios that are named:
#   proto-fixtures/record.sh [SCENARIO,SCENARIO… | hand-made]
# The scenarios are in tests/fixtures/scenarios.rs. Ids, times and the order of sets differ with every recording.
set -euo pipefail
cd "$(dirname "$0")/.."
BACKFEED_TEST_SERVERS=${BACKFEED_TEST_SERVERS:-$PWD/target/test-servers}
export BACKFEED_TEST_SERVERS
[ -d "$BACKFEED_TEST_SERVERS" ] || tests/servers.sh
what=${1:-all}
filter=record_the_corpus
[ "$what" = hand-made ] && filter=hand_made_fixtures
BACKFEED_RECORD_FIXTURES=$what cargo nextest run --config-file tests/nextest.toml --no-fail-fast --test all "$filter"

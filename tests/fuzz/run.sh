#!/usr/bin/env bash
# Fuzzes each target for so many seconds: `tests/fuzz/run.sh [SECONDS [TARGET…]]`, 60 and all of them by default.
# Stable Rust will do: what libFuzzer needs to be told of the code is put in by stable flags, without a sanitizer. A C++
# compiler builds libFuzzer. Inputs that were found are kept in target/fuzz/corpus, what crashes in target/fuzz/crashes.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(lzf rdb resp segments apply)
home=$PWD/../../target/fuzz
mkdir -p "$home/corpus" "$home/crashes"

# The same versions of everything as the program; what it does not have is added.
[ -e Cargo.lock ] || cp ../../Cargo.lock Cargo.lock
# Naming the target keeps the flags away from build scripts.
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1" \
    cargo build --release --target "$host" --target-dir "$home/build"
programs=$home/build/$host/release

failed=()
for target in "${targets[@]}"; do
    echo "=== $target, ${seconds} s"
    BACKFEED_FUZZ_SEEDS=$home/corpus "$programs/$target"
    options=(-max_total_time="$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1)
    [ "$target" != apply ] || options+=(-dict="$home/corpus/apply.dict" -only_ascii=0)
    "$programs/$target" "${options[@]}" -artifact_prefix="$home/crashes/$target-" "$home/corpus/$target" 2>&1 |
        grep -v -e '^#.*\(NEW\|REDUCE\|pulse\)' -e '^Dictionary\|^###### ' -e ' at /root\|^" #' | tail -n 40 ||
        failed+=("$target")
done
[ ${#failed[@]} = 0 ] || {
    echo "failed: ${failed[*]}; replay with: target/fuzz/build/$host/release/TARGET FILE" >&2
    exit 1
}

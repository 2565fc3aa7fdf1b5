#!/usr/bin/env bash
# Builds, then measures in namespaces and a folder of its own: whatever happens, the kernel ends
# every process of it and takes every mount away (unshare heeds only SIGKILL). BENCH_QUICK=1 measures less, in two minutes.
set -uo pipefail

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
RESULT=$ROOT/target/bench.json

# Inside: the first process of the namespace, in a /run of its own.
inside() {
    local work=$1
    mount --make-rprivate / && mount -t tmpfs -o mode=755 tmpfs /run || exit 1
    mkdir -p /run/docker/plugins /run/lock
    "$BIN/cobalt-bench" "$BIN" "$work" "$RESULT"
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
WORK=$(mktemp -d /var/tmp/cobalt-bench.XXXXXX)
CHILD=
trap 'clear_away 1' EXIT
trap '[ -z "$CHILD" ] || kill -KILL "$CHILD" 2>/dev/null; wait; clear_away 130' INT TERM HUP
unshare --mount --pid --fork --kill-child --mount-proc "$0" --inside "$WORK" &
CHILD=$!
wait "$CHILD"
clear_away $?

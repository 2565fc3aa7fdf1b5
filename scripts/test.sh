#!/usr/bin/env bash
# Everything: what is missing is installed, then check.sh's part, the rules on dependencies, and
# the tests on a real etcd, btrfs and dockerd. Needs root. Ends in one line with the total.
set -uo pipefail

# shellcheck source=scripts/test-lib.sh
. "$(dirname "$0")/test-lib.sh"

deny() {
    local tool=$TOOLS/bin/cargo-deny
    if command -v cargo-deny >/dev/null 2>&1; then
        tool=$(command -v cargo-deny)
    elif [ ! -x "$tool" ]; then
        check cargo install --locked --quiet --root "$TOOLS" cargo-deny || return
    fi
    check "$tool" --log-level error check --hide-inclusion-graph bans licenses sources
}

# Packages of the programs that the quick part has built already.
packages() {
    check env PROFILE=dev "$ROOT/scripts/deb.sh" && check "$ROOT/scripts/deb-check.sh"
}

# The daemon with failpoints goes into a folder of its own: the next ordinary build of the
# workspace writes over target/debug.
integration() {
    local bin=$ROOT/target/integration
    check cargo build --locked -p cobaltd -p cobalt-docker-plugin \
        --features cobaltd/failpoints,cobalt-docker-plugin/failpoints || return
    mkdir -p "$bin"
    cp -f target/debug/cobaltd target/debug/cobalt target/debug/cobalt-docker-plugin "$bin/"
    check env COBALT_BIN_DIR="$bin" "$ROOT/scripts/schemathesis.sh"
    # They share loop devices, two processors and the disk, and mostly wait: a few at a time are
    # fastest.
    if cargo nextest --version >/dev/null 2>&1; then
        tests env COBALT_BIN_DIR="$bin" cargo nextest run --locked -p cobalt-integration \
            --profile "$PROFILE_OF_TESTS" --no-fail-fast --test-threads 3
    else
        tests env COBALT_BIN_DIR="$bin" cargo test --locked -p cobalt-integration --no-fail-fast \
            -- --test-threads 2
    fi
}

# The tests that need the kernel's NFS, in a guest that has it; then some of them on the older one.
lab() {
    local settings=(COBALT_BIN_DIR="$ROOT/target/integration" COBALT_LAB_RETRIES="$LAB_RETRIES")
    tests env "${settings[@]}" "$ROOT/scripts/lab.sh" test --limit 2400
    tests env "${settings[@]}" "$ROOT/scripts/lab.sh" test --suite bookworm lab_nfs
}

[ "$(id -u)" = 0 ] || {
    echo "the tests mount file systems and start daemons: run them as root (make check needs no root)" >&2
    exit 1
}
case ${1:-all} in
all)
    check "$ROOT/scripts/deps.sh" --lab
    quick
    deny
    check "$ROOT/scripts/fuzz.sh"
    packages
    integration
    lab
    ;;
integration) integration ;;
*)
    echo "usage: $0 [all|integration]" >&2
    exit 2
    ;;
esac
finish

#!/usr/bin/env bash
# Throws requests, made from the OpenAPI document that it serves, at a `cobaltd standalone` of its
# own: no fault of the server, no status, header or body that the document does not know. Needs
# root, python3 and the programs in $COBALT_BIN_DIR (or target/debug).
set -euo pipefail

VERSION=4.32.5
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Built once for all checkouts, beside what cargo keeps.
TOOLS=${CARGO_HOME:-$HOME/.cargo}/cobalt-tools
BIN=${COBALT_BIN_DIR:-$ROOT/target/debug}
TOOL=$TOOLS/schemathesis-$VERSION
SECONDS_TO_RUN=${COBALT_SCHEMATHESIS_SECONDS:-75}

install_tool() {
    [ -f "$TOOL/complete" ] && return
    rm -rf --one-file-system -- "$TOOL"
    python3 -m venv "$TOOL" || {
        echo "python3 cannot make a venv: install python3-venv" >&2
        return 1
    }
    "$TOOL/bin/python3" -m pip install --quiet --disable-pip-version-check \
        "schemathesis==$VERSION"
    touch "$TOOL/complete"
}

call() { # METHOD PATH [BODY]
    curl --silent --show-error --fail --max-time 20 --unix-socket "$WORK/run/cobalt.sock" \
        --request "$1" ${3+--data "$3"} "http://localhost$2"
}

field() { # NAME: its text in a JSON object of one level
    sed "s/.*\"$1\":\"\([^\"]*\)\".*/\1/"
}

wait_ready() {
    local end=$((SECONDS + 60))
    until call GET /readyz >/dev/null 2>&1; do
        if ! kill -0 "$DAEMON" || ((SECONDS > end)); then
            tail -n 20 "$WORK/cobaltd.log" >&2
            return 1
        fi
        sleep 0.2
    done
}

# In namespaces of its own: what is started and mounted here goes with them.
inside() {
    local status=0 made token
    mount --make-rprivate /
    PORT=$((20000 + RANDOM % 12000))
    "$BIN/cobaltd" standalone --state-dir "$WORK/state" --pool-size 1G --run-dir "$WORK/run" \
        --socket "$WORK/run/cobalt.sock" --listen "127.0.0.1:$PORT" >"$WORK/cobaltd.log" 2>&1 &
    DAEMON=$!
    wait_ready
    made=$(call POST /v1/tokens '{"role":"admin"}')
    token=$(field token <<<"$made")
    COBALT_OWN_TOKEN_ID=$(field id <<<"$made")
    export COBALT_OWN_TOKEN_ID
    call PUT '/v1/volumes/web?wait=ready' '{"size":"64M"}' >/dev/null
    cd "$ROOT/scripts"
    # A stream of events does not end; daemon/tests/http/events.rs has its tests.
    "$TOOL/bin/schemathesis" --config-file schemathesis.toml run \
        "http://127.0.0.1:$PORT/v1/openapi.json" --header "Authorization: Bearer $token" \
        --exclude-path /v1/events \
        --max-time "$SECONDS_TO_RUN" --no-color --seed "${COBALT_SCHEMATHESIS_SEED:-1}" || status=1
    # Had it revoked its own token, everything after that was a 401 and said nothing.
    curl --silent --fail --header "Authorization: Bearer $token" \
        "http://127.0.0.1:$PORT/v1/tokens" >/dev/null || {
        echo "the token was revoked on the way: the rest was not tested" >&2
        status=1
    }
    if grep -n 'panicked at' "$WORK/cobaltd.log" >&2; then status=1; fi
    kill -TERM "$DAEMON"
    wait "$DAEMON" || status=1
    return "$status"
}

if [ "${1:-}" = inside ]; then
    WORK=$2
    inside
    exit
fi
install_tool
WORK=$(mktemp -d /var/tmp/cobalt-schemathesis-XXXXXX)
trap 'rm -rf --one-file-system -- "$WORK"' EXIT
unshare --mount --pid --fork --kill-child --mount-proc "$0" inside "$WORK"

#!/usr/bin/env bash
# Starts a standalone Cobalt with plugin and dockerd that stays up in the background, and writes
# .up.env. Ended by down.sh.
set -uo pipefail

# shellcheck source=scripts/up-lib.sh
. "$(dirname "$0")/up-lib.sh"
PATH=$PATH:/usr/sbin:/sbin

show_use() {
    cat <<TEXT
To use it:

    . ./.up.env
    docker volume create -d cobalt -o size=1G web
    docker run --rm -v web:/data busybox sh -c 'echo hello > /data/hello'
    docker run --rm -v web:/data busybox cat /data/hello
    cobalt volume ls

Logs are in .up/log. To end it and remove all of it, volumes too: make down
TEXT
}

all_alive() {
    local name
    [ -f "$ENV_FILE" ] || return 1
    for name in "$PIDS"/*; do
        pid_of "${name##*/}" >/dev/null || return 1
    done
    api_ready_as_recorded
}

api_ready_as_recorded() {
    PORT=$(sed -n 's/^COBALT_URL=.*:\([0-9]*\)$/\1/p' "$ENV_FILE")
    [ -n "$PORT" ] && api_ready
}

give_up() {
    trap - EXIT
    trap '' INT TERM HUP
    say "up failed: $*; clearing away (the logs are kept in $KEPT_LOGS)" >&2
    rm -rf -- "$KEPT_LOGS"
    cp -r "$LOGS" "$KEPT_LOGS" 2>/dev/null
    take_down
    exit 1
}

start_docker_if_none() {
    if docker_answers "$MACHINE_DOCKER"; then
        DOCKER_HOST=$MACHINE_DOCKER
        return
    fi
    DOCKER_HOST=unix://$RUN/docker.sock
    start_dockerd && DOCKER_HOST=$DOCKER_HOST import_busybox busybox:latest >/dev/null
}

write_env() {
    local etcd
    etcd=$(cat "$STATE/etcd-endpoint") || return 1
    cat >"$ENV_FILE.new" <<TEXT
DOCKER_HOST=$DOCKER_HOST
COBALT_SOCKET=$RUN/cobalt.sock
COBALT_API=unix://$RUN/cobalt.sock
COBALT_URL=http://127.0.0.1:$PORT
COBALT_TOKEN_FILE=$UP/admin-token
COBALT_ETCD=$etcd
COBALT_POOL=$STATE/pool
COBALTD_PID=$(pid_of cobaltd)
COBALT_PLUGIN_PID=$(pid_of cobalt-docker-plugin)
export DOCKER_HOST COBALT_SOCKET COBALT_API COBALT_URL COBALT_TOKEN_FILE COBALT_ETCD COBALT_POOL
export COBALTD_PID COBALT_PLUGIN_PID
case ":\$PATH:" in *:"$BIN":*) ;; *) export PATH="$BIN:\$PATH" ;; esac
TEXT
    mv "$ENV_FILE.new" "$ENV_FILE"
}

[ "$(id -u)" = 0 ] || die "up mounts file systems and starts daemons: run it as root"
lock_up
if all_alive; then
    say "It is up already."
    show_use
    exit 0
fi
# Some of it may have died: what is left of it goes first.
[ ! -d "$UP" ] || take_down
refuse_second_plugin

trap 'give_up "it ended early"' EXIT
trap 'give_up interrupted' INT TERM HUP
mkdir -p "$UP" "$LOGS" "$PIDS"
mkdir -p "$STATE" "$RUN"
PORT=$(free_port)
POOL_SIZE=$UP_POOL_SIZE
start_cobaltd || give_up "cobaltd did not start"
COBALT_API=unix://$RUN/cobalt.sock "$BIN/cobalt" token create --role admin \
    --out "$UP/admin-token" >/dev/null || give_up "no token could be made"
start_plugin || give_up "the plugin did not start"
printf '%s\n' "${MADE_DIRS[@]}" >"$UP/made-dirs"
start_docker_if_none || give_up "dockerd did not start"
write_env || give_up "the addresses could not be written down"
trap - EXIT INT TERM HUP
say "Cobalt is up: cobaltd $(pid_of cobaltd), plugin $(pid_of cobalt-docker-plugin), API on http://127.0.0.1:$PORT."
show_use

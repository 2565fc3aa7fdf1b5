#!/usr/bin/env bash
# The main job from end to end on this machine, in a private folder, with everything cleared
# away at the end, also when it fails or is interrupted.
set -uo pipefail

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin

LOCK=/run/lock/cobalt-demo.lock
VOLUME=cobalt-demo
IMAGE=cobalt-demo
WORK=
CHILD=
IMAGE_MADE=0
MADE_DIRS=()

# --- Showing what happens ---

now_ms() {
    local now=${EPOCHREALTIME/[.,]/}
    echo $((now / 1000))
}

STARTED=$(now_ms)

# line MILLISECONDS TEXT
line() { printf '[%3d.%ds] %s\n' $(($1 / 1000)) $(($1 % 1000 / 100)) "$2"; }

fail() {
    printf '\nThe demo failed: %s\n' "$*" >&2
    local log
    for log in "$LOGS"/*.log; do
        [ -s "$log" ] || continue
        printf -- '--- the end of %s\n' "${log##*/}" >&2
        tail -n 15 "$log" >&2
    done
    exit 1
}

# run_in_background COMMAND…: so that a signal is acted on at once, not when the command ends.
run_in_background() {
    "$@" </dev/null >"$WORK/out" 2>&1 9>&- &
    CHILD=$!
    wait "$CHILD"
    local status=$?
    CHILD=
    return "$status"
}

# try TEXT COMMAND…: runs it, shows TEXT with the time taken and the output below; its status.
try() {
    local text=$1 start status
    shift
    start=$(now_ms)
    [ ! -t 1 ] || printf '[  …  ] %s\r' "$text"
    run_in_background "$@"
    status=$?
    line $(($(now_ms) - start)) "$text"
    sed 's/^/         /' "$WORK/out"
    return "$status"
}

step() { try "$@" || fail "\"$1\" ended with an error"; }

# --- Clearing away ---

clear_away() {
    trap '' INT TERM
    trap - EXIT
    [ -z "$CHILD" ] || kill -TERM "$CHILD" 2>/dev/null
    if [ -n "$WORK" ]; then
        if [ "$IMAGE_MADE" = 1 ]; then
            # The machine's own dockerd: take back what was put there.
            docker ps -aq --filter "volume=$VOLUME" 2>/dev/null | xargs -r docker rm -f >/dev/null 2>&1
            docker volume rm -f "$VOLUME" >/dev/null 2>&1
            docker rmi -f "$IMAGE" >/dev/null 2>&1
        fi
        end dockerd 30
        end_plugin
        end cobaltd 30
        remove_folders "$WORK"
        local dir
        for dir in "${MADE_DIRS[@]}"; do rmdir "$dir" 2>/dev/null; done
    fi
    rm -f "$LOCK"
}

interrupted() {
    printf '\nInterrupted: clearing away.\n'
    exit 130
}

# --- The demo ---

prepare() {
    [ "$(id -u)" = 0 ] || die "the demo mounts file systems and starts daemons: run it as root"
    exec 9>"$LOCK"
    flock -n 9 || die "another demo is running on this machine: wait until it has ended"
    trap clear_away EXIT
    trap interrupted INT TERM HUP
    refuse_second_plugin
    WORK=$(mktemp -d /var/tmp/cobalt-demo.XXXXXX)
    STATE=$WORK/state RUN=$WORK/run LOGS=$WORK/log PIDS=$WORK/pids
    mkdir -p "$STATE" "$RUN" "$LOGS" "$PIDS"
    PORT=$(free_port)
    POOL_SIZE=1G
}

# Long, and with a progress of its own: shown as it comes.
build() {
    local start
    start=$(now_ms)
    say "cargo build --release"
    (cd "$ROOT" && exec cargo build --locked --release -p cobaltd -p cobalt-docker-plugin) 9>&- &
    CHILD=$!
    wait "$CHILD" || fail "the build ended with an error"
    CHILD=
    line $(($(now_ms) - start)) "cargo build --release"
}

start_all() {
    export COBALT_API="unix://$RUN/cobalt.sock"
    step "cobaltd standalone --state-dir $STATE" start_cobaltd
    # These set variables of this shell, so they are not run behind `step`.
    local start
    start=$(now_ms)
    start_plugin || fail "the plugin did not start"
    line $(($(now_ms) - start)) "cobalt-docker-plugin --socket $PLUGIN_SOCKET"
    if docker_answers "$MACHINE_DOCKER"; then
        export DOCKER_HOST=$MACHINE_DOCKER
        IMAGE_MADE=1
        say "         dockerd is running on this machine already: it is used"
    else
        export DOCKER_HOST="unix://$RUN/docker.sock"
        step "dockerd --data-root $STATE-docker/data --host $DOCKER_HOST …" start_dockerd
    fi
    step "tar -c busybox … | docker import - $IMAGE" import_busybox "$IMAGE"
}

in_container() { docker run --rm -v "$VOLUME:/data" "$IMAGE" sh -c "$1"; }
shown() { printf "docker run --rm -v %s:/data %s sh -c '%s'" "$VOLUME" "$IMAGE" "$1"; }

container() { step "$(shown "$1")" in_container "$1"; }

expect_output() {
    grep -qF -- "$1" "$WORK/out" || fail "the answer should have been \"$1\""
}

show_quota_bite() {
    if [ ! -e /sys/fs/btrfs/features/simple_quota ]; then
        say "         Linux $(uname -r) has no simple quotas (6.7 and later have): no size is enforced here."
        return
    fi
    local command='dd if=/dev/zero of=/data/big bs=1M count=100'
    if try "$(shown "$command")" in_container "$command"; then
        fail "100 MiB could be written into a volume of 64 MiB"
    fi
    expect_output "Disk quota exceeded"
    say "         … which is right: the volume has 64 MiB."
}

restart_cobaltd() {
    end cobaltd 30
    start_cobaltd
}

main_job() {
    step "docker volume create -d cobalt -o size=64M $VOLUME" \
        docker volume create -d cobalt -o size=64M "$VOLUME"
    step "docker volume inspect $VOLUME" docker volume inspect "$VOLUME"
    expect_output '"Status"'
    container 'echo "hello from one container" > /data/hello'
    container 'cat /data/hello'
    expect_output "hello from one container"
    show_quota_bite
    step "cobalt volume resize $VOLUME 256M" "$BIN/cobalt" volume resize "$VOLUME" 256M
    container 'dd if=/dev/zero of=/data/big bs=1M count=100'
    step "cobalt volume ls" "$BIN/cobalt" volume ls
    step "kill -TERM cobaltd; cobaltd standalone --state-dir $STATE" restart_cobaltd
    container 'cat /data/hello'
    expect_output "hello from one container"
    step "docker volume rm $VOLUME" docker volume rm "$VOLUME"
    step "docker volume ls" docker volume ls
    if grep -q "$VOLUME" "$WORK/out"; then fail "the removed volume is still listed"; fi
}

prepare
build
start_all
main_job
CLEARING=$(now_ms)
FOLDER=$WORK
clear_away
if [ -e "$FOLDER" ]; then die "The demo worked, but could not remove $FOLDER."; fi
line $(($(now_ms) - CLEARING)) "everything ended, unmounted and removed"
printf 'The demo worked: all of it took %d s.\n' $((($(now_ms) - STARTED) / 1000))

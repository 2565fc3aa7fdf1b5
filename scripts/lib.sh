# shellcheck shell=bash
# What demo.sh, up.sh and down.sh share: starting the programs in a private folder, waiting for
# them, and leaving nothing behind. Sourced, never run. It ends only processes that it finds in
# the folders it is given.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BIN=$ROOT/target/release
# A shell that has read .up.env, or is set up for another Cobalt or Docker, must not lead astray.
# shellcheck disable=SC2034 # up.sh uses it.
UP_POOL_SIZE=${COBALT_UP_POOL_SIZE:-4G}
unset "${!COBALT_@}" "${!DOCKER_@}"

PLUGIN_SOCKET=/run/docker/plugins/cobalt.sock
# shellcheck disable=SC2034 # The scripts that source this use it.
MACHINE_DOCKER=unix:///var/run/docker.sock
# Of the daemon being started; start_cobaltd's callers choose them.
PORT=
POOL_SIZE=

say() { printf '%s\n' "$*"; }

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# until_true SECONDS COMMAND…: asks again every tenth of a second.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if ((SECONDS >= end)); then return 1; fi
        sleep 0.1
    done
}

# --- Processes. One is known by its pid and the moment it started: a pid alone may be reused. ---

started_at() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The name in parentheses may hold blanks: fields are counted behind it.
    awk '{ print $20 }' <<<"${stat##*) }"
}

# spawn NAME COMMAND…: in a session of its own; pid in $PIDS/NAME, output in $LOGS/NAME.log.
spawn() {
    local name=$1
    shift
    setsid "$@" </dev/null >>"$LOGS/$name.log" 2>&1 9>&- &
    local pid=$!
    printf '%s %s\n' "$pid" "$(started_at "$pid")" >"$PIDS/$name"
    # The program ends when it is told to; the shell need not say so.
    disown "$pid"
}

pid_of() {
    local pid at
    [ -f "$PIDS/$1" ] && read -r pid at <"$PIDS/$1" || return 1
    [ -n "$at" ] && [ "$(started_at "$pid")" = "$at" ] && ! is_zombie "$pid" && printf '%s\n' "$pid"
}

is_zombie() { grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"; }
is_gone() { [ ! -d "/proc/$1" ] || is_zombie "$1"; }

# end_pid PID SECONDS: asks it to end, then ends it.
end_pid() {
    kill -TERM "$1" 2>/dev/null || return 0
    kill -CONT "$1" 2>/dev/null
    until_true "$2" is_gone "$1" && return 0
    kill -KILL "$1" 2>/dev/null
    until_true 5 is_gone "$1"
}

# end NAME SECONDS: the same for something spawned.
end() {
    local pid
    if pid=$(pid_of "$1"); then end_pid "$pid" "$2"; fi
    rm -f "$PIDS/$1"
}

# uses_folder PID FOLDER: whether it is one of the programs started here, working in FOLDER.
uses_folder() {
    local exe
    exe=$(readlink "/proc/$1/exe" 2>/dev/null) || return 1
    exe=${exe##*/}
    case ${exe% (deleted)} in
    cobaltd | cobalt-docker-plugin | etcd | dockerd | containerd | containerd-shim*) ;;
    *) return 1 ;;
    esac
    tr '\0' '\n' <"/proc/$1/cmdline" 2>/dev/null | grep -qF -- "$2/"
}

# end_leftovers FOLDER…: what outlived its parent, such as etcd or containers after a crash.
end_leftovers() {
    local folder proc pid child
    for folder in "$@"; do
        for proc in /proc/[0-9]*; do
            pid=${proc#/proc/}
            uses_folder "$pid" "$folder" || continue
            case $(readlink "/proc/$pid/exe") in
            *containerd-shim*)
                # Its children are the containers; they would run on without it.
                cat "/proc/$pid/task/"*/children 2>/dev/null | tr ' ' '\n' | grep . |
                    while read -r child; do kill -KILL "$child" 2>/dev/null; done
                ;;
            esac
            end_pid "$pid" 10
        done
    done
}

# --- Mounts and loop devices below a folder. ---

mounts_below() {
    awk -v folder="$1/" 'index($5 "/", folder) == 1 { print $5 }' /proc/self/mountinfo | tac
}

unmount_below() {
    local mount
    mounts_below "$1" | while read -r mount; do
        umount "$mount" 2>/dev/null || umount -l "$mount"
    done
}

detach_loops_below() {
    losetup --list --noheadings --raw --output NAME,BACK-FILE |
        while read -r device file; do
            case $file in "$1"/*) losetup -d "$device" 2>/dev/null ;; esac
        done
}

# remove_folder FOLDER…: everything in it ended, unmounted, detached and removed.
remove_folders() {
    local folder
    end_leftovers "$@"
    for folder in "$@"; do
        [ -d "$folder" ] || continue
        unmount_below "$folder"
        detach_loops_below "$folder"
        if [ -n "$(mounts_below "$folder")" ]; then
            say "something is still mounted below $folder: not removed" >&2
            continue
        fi
        rm -rf --one-file-system -- "$folder"
    done
}

# --- The programs. $STATE, $RUN, $LOGS and $PIDS are the caller's folders. ---

free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            printf '%s\n' "$port"
            return
        fi
    done
    die "no free TCP port was found on 127.0.0.1"
}

api_ready() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$PORT" || exit 1
        printf 'GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
        read -r -t 5 _ status _ <&3 && [ "$status" = 200 ]
    ) 2>/dev/null
}

# ready_or_dead NAME CHECK…: true when the check holds; also when waiting for it is in vain.
ready_or_dead() {
    local name=$1
    shift
    "$@" || ! pid_of "$name" >/dev/null
}

# wait_ready NAME SECONDS CHECK…
wait_ready() {
    local name=$1 limit=$2
    shift 2
    until_true "$limit" ready_or_dead "$name" "$@" && "$@" && return 0
    say "$name did not come up within $limit s; the end of its log:" >&2
    tail -n 20 "$LOGS/$name.log" >&2
    return 1
}

start_cobaltd() {
    spawn cobaltd "$BIN/cobaltd" standalone --state-dir "$STATE" --pool-size "$POOL_SIZE" \
        --run-dir "$RUN" --socket "$RUN/cobalt.sock" --listen "127.0.0.1:$PORT"
    wait_ready cobaltd 60 api_ready
}

# Whether some process listens there. A socket file may also be what is left of a dead one.
socket_lives() {
    [ -S "$1" ] && awk -v path="$1" '$8 == path { found = 1 } END { exit !found }' /proc/net/unix
}

refuse_second_plugin() {
    if socket_lives "$PLUGIN_SOCKET"; then
        die "another plugin is listening on $PLUGIN_SOCKET: stop it first (make down, or systemctl stop cobalt-docker-plugin)"
    fi
}

start_plugin() {
    local dir
    MADE_DIRS=()
    for dir in /run/docker /run/docker/plugins; do
        if [ ! -d "$dir" ]; then
            mkdir -m 0755 "$dir"
            MADE_DIRS=("$dir" "${MADE_DIRS[@]}")
        fi
    done
    spawn cobalt-docker-plugin "$BIN/cobalt-docker-plugin" --api "unix://$RUN/cobalt.sock" \
        --socket "$PLUGIN_SOCKET" --state-dir "$STATE-plugin" --run-dir "$RUN"
    wait_ready cobalt-docker-plugin 30 socket_lives "$PLUGIN_SOCKET"
}

end_plugin() {
    local had=0
    [ -f "$PIDS/cobalt-docker-plugin" ] && had=1
    end cobalt-docker-plugin 10
    # Killed the hard way, it could not take its socket with it.
    if [ "$had" = 1 ] && [ -S "$PLUGIN_SOCKET" ] && ! socket_lives "$PLUGIN_SOCKET"; then
        rm -f "$PLUGIN_SOCKET"
    fi
}

docker_answers() { timeout 10 docker -H "$1" info >/dev/null 2>&1; }

storage_driver() {
    local at=$1/probe driver=vfs
    mkdir -p "$at/lower" "$at/upper" "$at/work" "$at/merged"
    if mount -t overlay overlay "$at/merged" \
        -o "lowerdir=$at/lower,upperdir=$at/upper,workdir=$at/work" 2>/dev/null; then
        umount "$at/merged"
        driver=overlay2
    fi
    rm -rf -- "$at"
    printf '%s\n' "$driver"
}

# A dockerd of our own: no bridge, no firewall rules, nothing of the machine's configuration.
start_dockerd() {
    local namespace
    # Where a containerd of the machine is used, its other users are left alone.
    namespace=cobalt-$(printf '%s' "$RUN" | cksum | cut -d' ' -f1)
    mkdir -p "$STATE-docker"
    printf '{}\n' >"$STATE-docker/daemon.json"
    spawn dockerd dockerd --config-file "$STATE-docker/daemon.json" \
        --data-root "$STATE-docker/data" --exec-root "$RUN/docker" \
        --pidfile "$RUN/dockerd.pid" --host "unix://$RUN/docker.sock" \
        --storage-driver "$(storage_driver "$STATE-docker")" \
        --containerd-namespace "$namespace" --containerd-plugins-namespace "$namespace-plugins" \
        --bridge=none --iptables=false --ip-masq=false
    wait_ready dockerd 60 docker_answers "unix://$RUN/docker.sock"
}

# The smallest image there is: the machine's own busybox, with its libraries if it has any.
busybox_tree() {
    local tree=$1 library
    mkdir -p "$tree/bin" "$tree/tmp"
    cp "$(command -v busybox)" "$tree/bin/busybox"
    for library in $(ldd "$tree/bin/busybox" 2>/dev/null | grep -o '/[^ )]*'); do
        mkdir -p "$tree${library%/*}"
        cp -L "$library" "$tree$library"
    done
    "$tree/bin/busybox" --list | while read -r applet; do
        [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
    done
}

# import_busybox IMAGE
import_busybox() {
    local tree=$STATE-image
    rm -rf -- "$tree"
    busybox_tree "$tree"
    tar -C "$tree" -c . | docker import --change 'CMD ["sh"]' - "$1"
    rm -rf -- "$tree"
}

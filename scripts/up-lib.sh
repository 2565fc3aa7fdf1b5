# shellcheck shell=bash
# Where up.sh puts things, and how all of it is taken away again. Sourced, never run.

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

UP=$ROOT/.up
ENV_FILE=$ROOT/.up.env
STATE=$UP/state LOGS=$UP/log PIDS=$UP/pids
# Sockets have short paths, wherever the project lies; one folder for each clone.
RUN=/run/cobalt-up-$(printf '%s' "$ROOT" | cksum | cut -d' ' -f1)
# shellcheck disable=SC2034 # up.sh uses it.
KEPT_LOGS=$ROOT/target/up-failed-log

lock_up() {
    exec 9<"$ROOT/scripts"
    flock -w 120 9 || die "another make up or make down is at work here"
}

take_down() {
    local dir made=()
    # Folders for the plugin's socket that were not there before.
    if [ -f "$UP/made-dirs" ]; then mapfile -t made <"$UP/made-dirs"; fi
    rm -f "$ENV_FILE"
    end dockerd 30
    end_plugin
    end cobaltd 30
    remove_folders "$UP" "$RUN"
    for dir in "${made[@]}"; do rmdir "$dir" 2>/dev/null; done
    return 0
}

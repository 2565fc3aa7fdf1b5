#!/usr/bin/env bash
# Ends what up.sh started and removes its state, also after crashes of some of its parts.
set -uo pipefail

# shellcheck source=scripts/up-lib.sh
. "$(dirname "$0")/up-lib.sh"
PATH=$PATH:/usr/sbin:/sbin

[ "$(id -u)" = 0 ] || die "down ends daemons and unmounts file systems: run it as root"
lock_up
if [ ! -d "$UP" ] && [ ! -d "$RUN" ] && [ ! -f "$ENV_FILE" ]; then
    say "Nothing is up."
    exit 0
fi
take_down
[ ! -d "$UP" ] || die "not everything could be removed: see $UP"
say "Cobalt is down; nothing of it is left."

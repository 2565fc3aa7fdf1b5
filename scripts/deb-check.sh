#!/usr/bin/env bash
# Installs the packages of target/debian in a throw-away copy of this machine, works with them,
# removes and purges them, and looks whether the volumes are still there. The copy is an overlay
# over / in namespaces of its own: nothing of it is seen outside, and it goes with this script.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin
DEBS=$ROOT/target/debian
PACKAGES=(cobaltd cobalt cobalt-docker-plugin)

die() {
    echo "FAILED: $*" >&2
    exit 1
}

until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# --- In the copy. ---

installed_well() {
    local unit
    cobaltd --version && cobalt --version && cobalt-docker-plugin --version
    for page in 'cobaltd 8' 'cobaltd-standalone 8' 'cobalt-docker-plugin 8' 'cobalt 1' \
        'cobalt-volume-rm 1'; do
        # shellcheck disable=SC2086 # Name and section.
        set -- $page
        gzip -t "/usr/share/man/man$2/$1.$2.gz" || die "no manual page $1($2)"
    done
    for unit in cobaltd cobaltd-standalone cobalt-docker-plugin; do
        systemd-analyze verify --man=no "/usr/lib/systemd/system/$unit.service" ||
            die "systemd does not like $unit.service"
        [ "$(systemctl is-enabled "$unit.service")" = disabled ] || die "$unit was enabled"
    done
    [ -z "$(pgrep -x cobaltd)" ] || die "cobaltd was started by installing it"
    nfs_server_is_told
    dpkg --verify "${PACKAGES[@]}" || die "files of the packages are not as packaged"
    bash -c '. /usr/share/bash-completion/completions/cobalt
        COMP_WORDS=(cobalt volume res) COMP_CWORD=2; _cobalt; [ "${COMPREPLY[*]}" = resize ]' ||
        die "bash does not complete"
}

# What the packages say to NFS; whether its own tools understand it, a test in the lab looks.
nfs_server_is_told() {
    local file=/etc/nfs.conf.d/cobalt.conf
    dpkg-query --show --showformat '${Recommends}\n' cobaltd | grep -qw nfs-kernel-server ||
        die "cobaltd does not recommend nfs-kernel-server"
    dpkg-query --show --showformat '${Recommends}\n' cobalt-docker-plugin | grep -qw nfs-common ||
        die "cobalt-docker-plugin does not recommend nfs-common"
    dpkg-query --show --showformat '${Conffiles}\n' cobaltd | grep -q "^ $file " ||
        die "$file is no configuration file of cobaltd"
    [ "$(sed -n '/^\[nfsd\]$/,$s/^lease-time=//p' "$file")" = 10 ] || die "$file sets no lease"
    grep -q '^r! /etc/exports.d/cobalt-\*.exports$' /usr/lib/tmpfiles.d/cobaltd.conf ||
        die "exports would outlive a boot"
    [ -f /usr/lib/systemd/system/cobaltd-nfs-wait.service ] && [ -f /usr/lib/cobalt/boot.exports ] ||
        die "hosts would not wait for exports after a boot"
}

start() {
    # As the unit does it: the configuration that was packaged.
    (
        set -a
        # shellcheck disable=SC1091
        . /etc/cobalt/standalone.env
        exec cobaltd standalone --listen none
    ) >/var/log/cobaltd.log 2>&1 &
    DAEMON=$!
    until_true 60 cobalt status >/dev/null 2>&1 || {
        tail -n 20 /var/log/cobaltd.log >&2
        die "the installed cobaltd did not start"
    }
}

stop() {
    kill "$DAEMON"
    wait "$DAEMON" || die "cobaltd ended badly"
}

file_of_volume() { echo /var/lib/cobalt/pool/volumes/*/hello; }

still_there() {
    [ -f /var/lib/cobalt/pool.img ] || die "the pool is gone after $1"
    mount -o loop /var/lib/cobalt/pool.img /var/lib/cobalt/pool
    [ "$(cat "$(file_of_volume)")" = hello ] || die "the volume is gone after $1"
    umount /var/lib/cobalt/pool
}

inside() {
    export DEBIAN_FRONTEND=noninteractive
    mount -t proc proc /proc
    mount -t tmpfs tmpfs /run
    dpkg --install "$DEBS"/*.deb >/dev/null || die "the packages cannot be installed"
    installed_well
    sed -i 's/^COBALT_POOL_SIZE=.*/COBALT_POOL_SIZE=1G/' /etc/cobalt/standalone.env
    start
    cobalt volume create web --size 64M >/dev/null
    [ "$(bash -c '. /usr/share/bash-completion/completions/cobalt
        COMP_WORDS=(cobalt volume show "") COMP_CWORD=3; _cobalt; echo "${COMPREPLY[*]}"')" = web ] ||
        die "bash does not complete the names of volumes"
    # Its folder is known by the record alone, so it is found as a person would. Its export names it too.
    echo hello >"$(cobalt -o json volume show web | sed -n '/"path": /{s/.*: "\(.*\)".*/\1/p;q}')/hello"
    stop
    sed -i 's/^grace-time=.*/grace-time=20/' /etc/nfs.conf.d/cobalt.conf
    # Again: an upgrade keeps what an administrator wrote.
    dpkg --install "$DEBS"/*.deb >/dev/null || die "the packages cannot be installed again"
    grep -q '^COBALT_POOL_SIZE=1G$' /etc/cobalt/standalone.env || die "the configuration was lost"
    grep -q '^grace-time=20$' /etc/nfs.conf.d/cobalt.conf || die "the NFS server's configuration was lost"
    dpkg --remove "${PACKAGES[@]}" >/dev/null || die "the packages cannot be removed"
    still_there removing
    [ -f /etc/cobalt/standalone.env ] || die "removing took the configuration"
    dpkg --purge "${PACKAGES[@]}" || die "the packages cannot be purged"
    [ ! -e /etc/cobalt/standalone.env ] || die "purging left the configuration"
    [ ! -e /etc/nfs.conf.d/cobalt.conf ] || die "purging left the NFS server's configuration"
    still_there purging
    dpkg --install "$DEBS"/*.deb >/dev/null || die "the packages cannot be installed after purging"
    sed -i 's/^COBALT_POOL_SIZE=.*/COBALT_POOL_SIZE=1G/' /etc/cobalt/standalone.env
    start
    [ "$(cobalt volume ls --quiet)" = web ] || die "the volume is not known after a new installation"
    stop
    echo "the packages install, remove and purge, and leave volumes alone"
}

# --- Outside. ---

copy() {
    local at=$1
    mount --make-rprivate /
    # On a disk, not in memory: a pool is made in it. The upper layer may not itself be an overlay.
    mkdir -p "$at/upper" "$at/work" "$at/root"
    mount -t overlay overlay "$at/root" -o "lowerdir=/,upperdir=$at/upper,workdir=$at/work"
    mkdir -p "$at/disk" "$at/root/var/lib/cobalt"
    # btrfs in a file wants a real filesystem beneath it.
    mount --bind "$at/disk" "$at/root/var/lib/cobalt"
    mount --rbind /dev "$at/root/dev"
    mount --rbind /sys "$at/root/sys"
    mount --bind "$ROOT" "$at/root$ROOT"
    exec chroot "$at/root" "$ROOT/scripts/deb-check.sh" inside
}

case ${1:-} in
inside) inside ;;
copy) copy "$2" ;;
"")
    [ "$(id -u)" = 0 ] || die "it installs packages in a copy of this machine: run it as root"
    ls "$DEBS"/*.deb >/dev/null 2>&1 || die "there are no packages: make deb"
    AT=$(mktemp -d /var/tmp/cobalt-deb.XXXXXX)
    trap 'rm -rf --one-file-system -- "$AT"' EXIT
    unshare --mount --pid --fork --kill-child "$0" copy "$AT"
    ;;
esac

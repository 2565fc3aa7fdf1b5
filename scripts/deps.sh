#!/usr/bin/env bash
# Installs from the distribution what building and running Cobalt needs and this machine lacks.
# It starts and enables no service. Debian 12 and 13, Ubuntu 24.04. Programs named as arguments
# are installed too, from the packages of their names: `scripts/deps.sh lxd`.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
# "--lab" first: also what the lab needs.
PURPOSE=
if [ "${1:-}" = --lab ]; then PURPOSE=lab && shift; fi

have() { command -v "$1" >/dev/null 2>&1; }

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

missing_packages() {
    have etcd || echo etcd-server
    have etcdctl || echo etcd-client
    have mkfs.btrfs || echo btrfs-progs
    have protoc || echo protobuf-compiler
    [ -f /usr/include/google/protobuf/descriptor.proto ] || echo libprotobuf-dev
    have cc || echo gcc libc6-dev
    # The fuzzer's own part is C++; schemathesis is Python.
    have c++ || echo g++
    have curl || echo curl
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    [ -f /usr/include/stdio.h ] || echo libc6-dev
    have busybox || echo busybox-static
    have losetup || echo mount
    have nsenter || echo util-linux
    have modprobe || echo kmod
    # Units are checked and packages built with these; nothing of systemd is started.
    have systemd-analyze || echo systemd
    have dpkg-shlibdeps || echo dpkg-dev
    # A running daemon may come from elsewhere than the distribution; it is left alone.
    have dockerd || docker info >/dev/null 2>&1 || echo docker.io
    # Other programs that use the plugin. Ubuntu has Compose's second version under this name.
    if ! have docker-compose && ! docker compose version >/dev/null 2>&1; then
        if apt-cache show docker-compose-v2 >/dev/null 2>&1; then
            echo docker-compose-v2
        else
            echo docker-compose
        fi
    fi
    have podman || echo podman
    # Podman only recommends it, and dockerd has it.
    have runc || echo runc
    have ip || echo iproute2
    [ "$PURPOSE" != lab ] || lab_packages
}

# What makes the lab's guest and its discs, and reads them; the guest and its emulator bring the rest.
lab_packages() {
    have mmdebstrap || echo mmdebstrap
    have mke2fs && have debugfs || echo e2fsprogs
    have cpio || echo cpio
    have xz || echo xz-utils
    have objcopy || echo binutils
    [ -e /usr/share/keyrings/debian-archive-trixie-stable.gpg ] ||
        [ -e /usr/share/keyrings/debian-archive-trixie-stable.pgp ] || echo debian-archive-keyring
}

# Packages of services start and enable them. A policy of 101 forbids the one; the other is
# taken back for exactly the units that were not there before.
POLICY=/usr/sbin/policy-rc.d
UNITS=(etcd.service docker.service docker.socket containerd.service
    lxd.service lxd.socket lxd-containers.service lxcfs.service)

restore_policy() {
    rm -f "$POLICY"
    if [ -e "$POLICY.cobalt-saved" ]; then mv "$POLICY.cobalt-saved" "$POLICY"; fi
}

forbid_starting() {
    if [ -e "$POLICY" ]; then mv "$POLICY" "$POLICY.cobalt-saved"; fi
    trap restore_policy EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 0755 "$POLICY"
}

unit_exists() { [ -e "/lib/systemd/system/$1" ] || [ -e "/usr/lib/systemd/system/$1" ]; }

install() {
    local unit new=()
    for unit in "${UNITS[@]}"; do
        unit_exists "$unit" || new+=("$unit")
    done
    forbid_starting
    export DEBIAN_FRONTEND=noninteractive
    local options=(-y -q -o DPkg::Lock::Timeout=300)
    apt-get "${options[@]}" update
    apt-get "${options[@]}" install --no-install-recommends "$@"
    # Debian 13 has the client in a package of its own.
    have docker || apt-get "${options[@]}" install --no-install-recommends docker-cli
    for unit in "${new[@]}"; do
        if have systemctl && unit_exists "$unit"; then
            systemctl disable "$unit" >/dev/null 2>&1 || true
        fi
    done
    restore_policy
    trap - EXIT INT TERM
}

check_rust() {
    local wanted have_version
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
    have_version=$(cargo --version 2>/dev/null | cut -d' ' -f2) || true
    if [ -n "$have_version" ] &&
        [ "$(printf '%s\n' "$wanted" "$have_version" | sort -V | head -n1)" = "$wanted" ]; then
        return
    fi
    {
        echo "Rust $wanted or newer is needed and ${have_version:-none} was found."
        echo "Get it with rustup: https://rustup.rs says how; Debian 13 and Ubuntu 24.04 also have it:"
        echo "    apt-get install rustup && rustup default stable"
        echo "Then open a new shell and run the same command again."
    } >&2
    exit 1
}

read -r -a packages <<<"$(missing_packages | tr '\n' ' ')"
for program in "$@"; do
    have "$program" || packages+=("$program")
done
if [ "${#packages[@]}" -gt 0 ]; then
    have apt-get || die "these packages are missing and there is no apt-get to install them: ${packages[*]}"
    [ "$(id -u)" = 0 ] || die "these packages are missing; run this as root to install them: ${packages[*]}"
    echo "installing from the distribution: ${packages[*]}"
    install "${packages[@]}"
fi
check_rust
echo "everything needed is installed"

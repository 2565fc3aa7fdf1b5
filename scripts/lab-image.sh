# shellcheck shell=bash
# The guest of the lab, and the emulator it runs in: a kernel, an initrd and a root disc, made from a Debian mirror and kept by
# a hash of all that goes into them. Sourced by lab.sh, never run.

LAB_CACHE=${COBALT_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cobalt-lab}
# The root disc is sparse: what is not written takes no room. Each run throws its writes away.
ROOT_DISC=16G

lab_packages() {
    local suite=$1
    # From the kernel up; then what the tests start; then what they look with.
    printf '%s\n' linux-image-cloud-amd64 kmod busybox-static iproute2 nftables procps psmisc \
        util-linux mount e2fsprogs ca-certificates \
        nfs-kernel-server nfs-common btrfs-progs etcd-server etcd-client docker.io \
        docker-compose haproxy \
        curl strace iputils-ping tcpdump keyutils
    case $suite in
    bookworm) ;;
    *) printf '%s\n' docker-cli util-linux-extra ;;
    esac
}

# The mirror that this machine's apt uses for Debian. Another distribution has none to offer.
lab_mirror() {
    local mirror=${COBALT_LAB_MIRROR:-}
    # shellcheck disable=SC2016 # apt fills them in.
    [ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI) $(RELEASE)' \
        'Created-By: Packages' 2>/dev/null | awk '
        ($1 == "Debian" || $3 ~ /\/debian\/?$/) && $2 == "main" && $4 !~ /-(security|updates|backports|debug)/ { print $3; exit }')
    [ -n "$mirror" ] || die "apt on this machine knows no Debian mirror: set COBALT_LAB_MIRROR to the URL of one"
    printf '%s\n' "$mirror"
}

lab_hash() {
    {
        echo "$1 $ROOT_DISC"
        lab_packages "$1"
        declare -f bootstrap make_image make_tree make_initrd make_root
        cat "$ROOT/integration/lab/initrd-init"
    } | sha256sum | cut -c1-16
}

# lab_image SUITE: makes what is not there; sets IMAGE to the guest's folder and EMULATOR to the
# emulator's.
lab_image() {
    local suite=$1
    mkdir -p "$LAB_CACHE"
    exec 8>"$LAB_CACHE/lock"
    flock 8
    EMULATOR=$LAB_CACHE/$(emulator_name)
    IMAGE=$LAB_CACHE/$suite-$(lab_hash "$suite")
    [ -f "$EMULATOR/complete" ] || make_cached emulator "$EMULATOR" make_emulator
    [ -f "$IMAGE/complete" ] || make_cached "$suite" "$IMAGE" make_image "$suite"
    flock -u 8
    exec 8>&-
}

# make_cached NAME FOLDER FUNCTION…: the function fills its last argument, which then becomes
# FOLDER; folders of that name with another hash are removed.
make_cached() {
    local name=$1 folder=$2 work start=$SECONDS log=$LAB_CACHE/$1.log
    shift 2
    [ "$(id -u)" = 0 ] || die "the lab's $name is made as root"
    rm -rf --one-file-system -- "$LAB_CACHE/$name"-* "$LAB_CACHE"/making.*
    work=$(mktemp -d "$LAB_CACHE/making.XXXXXX") || die "no folder in $LAB_CACHE"
    chmod 0755 "$work"
    say "lab: making $name (once; a minute or two)" >&2
    # In a shell of its own: where a function stands in a condition, nothing in it ends at errors.
    (set -e && "$@" "$work") >"$log" 2>&1
    # shellcheck disable=SC2181
    if [ "$?" != 0 ]; then
        tail -n 20 "$log" >&2
        rm -rf --one-file-system -- "$work"
        die "the lab's $name could not be made; the log is $log"
    fi
    touch "$work/complete"
    mv "$work" "$folder"
    say "lab: made in $((SECONDS - start)) s, $(du -sh "$folder" | cut -f1) in $folder" >&2
}

# The emulator is Debian 13's on every machine. Debian 12's 7.2 loses flags of the processor when
# it emulates two of them: guests die of double faults.
emulator_name() { echo "emulator-$(declare -f make_emulator bootstrap | sha256sum | cut -c1-16)"; }

make_emulator() {
    # Only unpacked: it is run with the libraries beside it.
    bootstrap trixie "$1/tree" --variant=extract --include=libc6,qemu-system-x86,seabios,ipxe-qemu
}

# emulator ARGUMENT…: becomes qemu.
emulator() {
    local tree=$EMULATOR/tree
    exec env QEMU_MODULE_DIR="$tree/usr/lib/x86_64-linux-gnu/qemu" \
        "$tree/usr/lib64/ld-linux-x86-64.so.2" \
        --library-path "$tree/usr/lib/x86_64-linux-gnu" "$tree/usr/bin/qemu-system-x86_64" \
        -L "$tree/usr/share/qemu" -L "$tree/usr/share/seabios" "$@"
}

make_image() {
    local suite=$1 work=$2
    make_tree "$suite" "$work"
    make_initrd "$work"
    make_root "$work"
    rm -rf --one-file-system -- "$work/tree" "$work/initrd"
}

# bootstrap SUITE FOLDER OPTION…: the packages from this machine's mirror.
bootstrap() {
    local suite=$1 folder=$2 mirror
    shift 2
    mirror=$(lab_mirror)
    # How this machine reaches it: proxies, checks of dates.
    apt-config dump | grep -E '^Acquire::(http|https|ftp|Check|Retries)' >"$folder.conf" || true
    nice -n 5 mmdebstrap --mode=root --skip=check/empty --keyring=/usr/share/keyrings \
        --aptopt="$folder.conf" --aptopt='APT::Install-Recommends "false"' \
        --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$@" "$suite" "$folder" "$mirror"
    rm -f "$folder.conf"
}

make_tree() {
    local suite=$1 work=$2
    bootstrap "$suite" "$work/tree" --variant=minbase \
        --include="$(lab_packages "$suite" | paste -sd,)"
    # The mirror is this machine's business.
    : >"$work/tree/etc/apt/sources.list"
    mkdir -p "$work/tree/job" "$work/tree/results"
    echo lab >"$work/tree/etc/hostname"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$work/tree/etc/hosts"
    rm -f "$work/tree/etc/resolv.conf"
    : >"$work/tree/etc/resolv.conf"
}

# A busybox, and the modules that it takes to see the discs.
make_initrd() {
    local work=$1 version module file
    version=$(ls "$work/tree/lib/modules")
    [ "$(wc -w <<<"$version")" = 1 ]
    mkdir -p "$work/initrd"/{bin,dev,proc,sys,root,modules}
    cp "$work/tree/bin/busybox" "$work/initrd/bin/busybox"
    cp "$ROOT/integration/lab/initrd-init" "$work/initrd/init"
    chmod 0755 "$work/initrd/init"
    for module in virtio_pci virtio_blk ext4; do
        chroot "$work/tree" modprobe -S "$version" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/modules"
    while read -r module; do
        file=${module##*/}
        file=${file%.xz}
        case $module in
        *.xz) xz -dc "$work/tree$module" >"$work/initrd/modules/$file" ;;
        *) cp "$work/tree$module" "$work/initrd/modules/$file" ;;
        esac
        echo "$file" >>"$work/initrd/modules/order"
    done <"$work/modules"
    (cd "$work/initrd" && find . | cpio --quiet -o -H newc) | gzip -1 >"$work/initrd.gz"
    cp "$work/tree/boot/vmlinuz-$version" "$work/vmlinuz"
    rm -rf "$work/tree/boot" "$work/modules"
}

# Without a journal: a run that ends badly never sees its disc again.
make_root() {
    local work=$1
    truncate -s "$ROOT_DISC" "$work/root.img"
    mke2fs -q -t ext4 -L root -O '^has_journal' -m 0 \
        -E assume_storage_prezeroed=1,lazy_itable_init=1 -d "$work/tree" "$work/root.img"
}

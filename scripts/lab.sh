#!/usr/bin/env bash
# The lab: programs and tests run in an emulated guest that has what this machine's kernel may
# lack: the kernel's NFS, btrfs with simple quotas, and everything they need. docs/lab.md has more.
set -uo pipefail

# What the caller set for the lab, before lib.sh forgets everything of Cobalt's.
BIN_DIR=${COBALT_BIN_DIR:-}
ROUNDS=${COBALT_LAB_ROUNDS:-} SEED=${COBALT_LAB_SEED:-}
KEEP_CACHE=${COBALT_LAB_CACHE:-} KEEP_MIRROR=${COBALT_LAB_MIRROR:-}
SUITE=${SUITE:-${COBALT_LAB_SUITE:-trixie}}
THREADS=${COBALT_LAB_THREADS:-2}
# How many test programs run side by side, each with so many threads.
BESIDE=${COBALT_LAB_BESIDE:-2}
LIMIT=${COBALT_LAB_LIMIT:-1200}
# A loaded machine boots it in half a minute.
BOOT_LIMIT=${COBALT_LAB_BOOT_LIMIT:-120}
MEMORY=${COBALT_LAB_MEMORY:-4096}
# How often a failed test is tried again; what passes only then is named at the end as flaky.
RETRIES=${COBALT_LAB_RETRIES:-0}
# "kvm" where there is one that works; the emulation is what is tested.
ACCEL=${COBALT_LAB_ACCEL:-tcg,thread=multi}
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
[ -z "$KEEP_CACHE" ] || COBALT_LAB_CACHE=$KEEP_CACHE
[ -z "$KEEP_MIRROR" ] || COBALT_LAB_MIRROR=$KEEP_MIRROR
# shellcheck source=scripts/lab-image.sh
. "$ROOT/scripts/lab-image.sh"

FAILED_DIR=$ROOT/target/lab-failed
# What programs read of the project's tree at run time.
TREE=(scripts integration/lab docker docker-compose.yml Dockerfile .dockerignore daemon/debian)
WORK=
QEMU=

usage() {
    cat >&2 <<TEXT
usage: $0 run [OPTION]… PROGRAM [ARGUMENT]…     run a program of this machine in the guest
       $0 test [OPTION]… [TEST]… [-- ARGUMENT…] build and run the tests lab_*, or only these
       $0 shell [OPTION]…                       a shell in the guest; ends with it
       $0 image [OPTION]…                       only make the guest's image
options: --suite trixie|bookworm  --limit SECONDS  --with PATH (in the project; may repeat)
TEXT
    exit 2
}

clear_away() {
    trap - EXIT
    trap '' INT TERM HUP
    if [ -n "$QEMU" ]; then kill -KILL "$QEMU" 2>/dev/null; fi
    [ -z "$WORK" ] || rm -rf --one-file-system -- "$WORK"
}

# --- The job: what the guest shall run, on a disc. ---

# add_program FILE: without what only debuggers read.
add_program() {
    local to=$WORK/job/bin/${1##*/}
    objcopy --strip-debug "$1" "$to" 2>/dev/null || cp "$1" "$to"
    chmod 0755 "$to"
}

add_programs() {
    local folder=${BIN_DIR:-$ROOT/target/integration} name
    for name in cobaltd cobalt cobalt-docker-plugin; do
        [ ! -f "$folder/$name" ] || add_program "$folder/$name"
    done
}

start_job() {
    local path
    mkdir -p "$WORK/job/bin" "$WORK/job/tree"
    cp "$ROOT/integration/lab/guest-init" "$WORK/job/guest-init"
    cp "$ROOT/integration/lab/run-tests" "$WORK/job/bin/run-tests"
    for path in "${TREE[@]}"; do
        [ -e "$ROOT/$path" ] || continue
        mkdir -p "$(dirname "$WORK/job/tree/$path")"
        cp -a "$ROOT/$path" "$WORK/job/tree/$path"
    done
    echo "$ROOT" >"$WORK/job/root"
    echo "$LIMIT" >"$WORK/job/limit"
    : >"$WORK/job/env"
    add_env COBALT_LAB=1 "COBALT_LAB_SUITE=$SUITE" "COBALT_LAB_THREADS=$THREADS" \
        "COBALT_LAB_BESIDE=$BESIDE" "COBALT_LAB_RETRIES=$RETRIES" COBALT_BIN_DIR=/job/bin
    [ -z "$ROUNDS" ] || add_env "COBALT_LAB_ROUNDS=$ROUNDS"
    [ -z "$SEED" ] || add_env "COBALT_LAB_SEED=$SEED"
    local name
    for name in "${!RUST_@}" FAILPOINTS; do
        [ -z "${!name:-}" ] || add_env "$name=${!name}"
    done
    add_programs
}

add_env() { printf '%s\0' "$@" >>"$WORK/job/env"; }

# finish_job ARGV…
finish_job() {
    printf '%s\0' "$@" >"$WORK/job/argv"
    local megabytes
    megabytes=$(du -sm "$WORK/job" | cut -f1)
    truncate -s "$((megabytes * 11 / 10 + 32))M" "$WORK/job.img"
    mke2fs -q -t ext4 -O '^has_journal' -m 0 -d "$WORK/job" "$WORK/job.img" ||
        die "the disc with the job could not be made"
}

# --- The guest. ---

disc() { # SERIAL FILE OPTIONS
    printf '%s\n' -drive "id=$1,if=none,format=raw,file=$2,$3" \
        -device "virtio-blk-pci,drive=$1,serial=$1"
}

# boot: starts qemu on fresh discs; its console is our output.
boot() {
    local discs
    rm -f "$WORK/results.img" "$WORK/console.log"
    truncate -s 2G "$WORK/results.img"
    mke2fs -q -t ext4 -O '^has_journal' -m 0 "$WORK/results.img" || die "no disc for results"
    mapfile -t discs < <(
        disc root "$IMAGE/root.img" snapshot=on,cache=unsafe
        disc job "$WORK/job.img" readonly=on
        disc results "$WORK/results.img" cache=unsafe
    )
    local machine=(-M q35 -accel "$ACCEL"
        -cpu max -smp 2 -m "$MEMORY" -nodefaults -no-user-config -display none -monitor none -no-reboot
        -kernel "$IMAGE/vmlinuz" -initrd "$IMAGE/initrd.gz"
        -append "console=ttyS0 reboot=t panic=-1 quiet" "${discs[@]}"
        -device virtio-rng-pci
        -serial chardev:console)
    export TMPDIR=$WORK
    if [ "${1:-}" = interactive ]; then
        (emulator "${machine[@]}" -chardev "stdio,id=console,signal=off")
        return
    fi
    (emulator "${machine[@]}" -chardev "stdio,id=console,signal=off,logfile=$WORK/console.log") </dev/null &
    QEMU=$!
}

is_up() { grep -qs '^lab: the guest is up' "$WORK/console.log"; }
has_ended() { is_gone "$QEMU"; }
is_up_or_has_ended() { is_up || has_ended; }

# run_guest: 0 to 255 is the status of what ran in it; 254 when the guest itself failed.
run_guest() {
    local attempt status
    for attempt in 1 2; do
        boot
        until_true "$BOOT_LIMIT" is_up_or_has_ended
        if is_up; then
            until_true $((LIMIT + 90)) has_ended || say "lab: the guest hangs: ended after its time limit"
        fi
        kill -KILL "$QEMU" 2>/dev/null
        wait "$QEMU" 2>/dev/null
        QEMU=
        if is_up; then break; fi
        say "lab: the guest did not come up within $BOOT_LIMIT s (attempt $attempt of 2)"
    done
    status=$(debugfs -R 'cat /status' "$WORK/results.img" 2>/dev/null)
    case $status in
    '' | *[!0-9]*)
        say "lab: the guest ended without saying how its program did"
        return 254
        ;;
    esac
    return "$status"
}

keep_logs() {
    local name=$1 kept
    kept=$FAILED_DIR/$SUITE-$name-$$
    mkdir -p "$kept"
    debugfs -R "rdump / $kept" "$WORK/results.img" >/dev/null 2>&1
    rmdir "$kept/lost+found" 2>/dev/null
    cp "$WORK/console.log" "$kept/" 2>/dev/null
    say "lab: logs are kept in $kept"
}

# go NAME ARGV…: runs them in the guest; its status is theirs.
go() {
    local name=$1 status start=$SECONDS
    shift
    finish_job "$@"
    run_guest
    status=$?
    [ "$status" = 0 ] || keep_logs "$name"
    say "lab: $name ended with status $status after $((SECONDS - start)) s on Debian $SUITE"
    return "$status"
}

# --- Commands. ---

prepare() {
    local tool
    for tool in mmdebstrap mke2fs debugfs cpio; do
        have "$tool" || die "$tool is missing: run scripts/deps.sh"
    done
    case $SUITE in
    trixie | bookworm) ;;
    *) die "the lab has a guest of Debian trixie and one of bookworm, none of $SUITE" ;;
    esac
    lab_image "$SUITE"
    WORK=$(mktemp -d /var/tmp/cobalt-lab.XXXXXX)
    trap clear_away EXIT
    trap 'exit 130' INT TERM HUP
}

have() { command -v "$1" >/dev/null 2>&1; }

run() {
    local program
    [ "$#" -gt 0 ] || usage
    prepare
    start_job
    program=$1
    shift
    if [ -f "$program" ]; then
        add_program "$program"
        program=/job/bin/${program##*/}
    fi
    go "${program##*/}" "$program" "$@"
}

build_tests() { # TEST…: prints the programs
    local arguments=() name
    for name in "$@"; do arguments+=(--test "$name"); done
    cargo test --locked -p cobalt-integration --features lab --no-run --message-format=json-render-diagnostics \
        "${arguments[@]}" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | grep '/lab_'
}

# All that can run there.
tests_of_suite() {
    local file name
    for file in "$ROOT"/integration/tests/lab_*.rs; do
        name=$(basename "$file" .rs)
        # Debian 12 has the first version of Compose, which does not know the file.
        if [ "$SUITE $name" = "bookworm lab_compose" ]; then
            say "lab: left out on Debian 12, which has no Compose 2: $name" >&2
            continue
        fi
        printf '%s\n' "$name"
    done
}

build_programs() {
    local bin=$ROOT/target/integration name
    BIN_DIR=$bin
    cargo build --locked -p cobaltd -p cobalt-docker-plugin \
        --features cobaltd/failpoints,cobalt-docker-plugin/failpoints || die "the programs do not build"
    mkdir -p "$bin"
    for name in cobaltd cobalt cobalt-docker-plugin; do
        cp "$ROOT/target/debug/$name" "$bin/$name.new" && mv -f "$bin/$name.new" "$bin/$name"
    done
}

test_all() {
    local names=() programs program
    while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
        names+=("$1")
        shift
    done
    [ "${1:-}" != -- ] || shift
    [ "${#names[@]}" -gt 0 ] || mapfile -t names < <(tests_of_suite)
    [ -n "$BIN_DIR" ] || build_programs
    programs=$(build_tests "${names[@]}") || die "the tests of the lab do not build"
    prepare
    start_job
    while read -r program; do
        add_program "$program"
        # cargo adds a hash.
        mv "$WORK/job/bin/${program##*/}" "$WORK/job/bin/$(basename "${program%-*}")"
    done <<<"$programs"
    go tests /bin/bash /job/bin/run-tests "$@"
}

shell() {
    local saved
    [ -t 0 ] || say "lab: this is no terminal; the shell reads what it is given" >&2
    prepare
    start_job
    touch "$WORK/job/interactive"
    finish_job /bin/bash -l
    say "lab: a shell in a guest of Debian $SUITE; it ends with exit"
    saved=$(stty -g 2>/dev/null)
    stty raw -echo 2>/dev/null
    boot interactive
    [ -z "$saved" ] || stty "$saved"
}

[ "$#" -gt 0 ] || usage
COMMAND=$1
shift
while [ "$#" -gt 0 ]; do
    case $1 in
    --suite) SUITE=$2 && shift 2 ;;
    --limit) LIMIT=$2 && shift 2 ;;
    --with) TREE+=("$2") && shift 2 ;;
    -*) [ "$1" = -- ] || usage
        [ "$COMMAND" != run ] || shift
        break ;;
    *) break ;;
    esac
done
case $COMMAND in
run) run "$@" ;;
test) test_all "$@" ;;
shell) shell ;;
image)
    prepare
    say "$IMAGE"
    ;;
*) usage ;;
esac

#!/usr/bin/env bash
# Builds the folder that `docker plugin create` makes a managed plugin of: config.json and a root
# filesystem with the plugin and its libraries. docs/managed-plugin.md says how to use it.
#
# plugin-folder.sh [FOLDER] [PROGRAM]
# POOL=PATH, if the pool of cobaltd is not below /var/lib/cobalt: where it is mounted, or a folder
# above it. It is the same path on the host and for the plugin.
# RUN_DIR=PATH, if cobaltd was told another --run-dir than /run/cobalt.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
OUT=${1:-$ROOT/target/managed-plugin}
PROGRAM=${2:-$ROOT/target/release/cobalt-docker-plugin}
POOL=${POOL:-/var/lib/cobalt}
RUN_DIR=${RUN_DIR:-/run/cobalt}
STATE=/var/lib/cobalt-docker-plugin

for path in "$POOL" "$RUN_DIR"; do
    case $path in
    *[!A-Za-z0-9/._-]* | [!/]*)
        echo "$path: write a whole path of letters, digits, '.', '_' and '-'" >&2
        exit 2
        ;;
    esac
done

rm -rf -- "$OUT"
mkdir -p "$OUT/rootfs"/{run/docker/plugins,run/cobalt,proc,sys,dev,tmp,etc,bin} \
    "$OUT/rootfs$STATE" "$OUT/rootfs$POOL"
cp "$PROGRAM" "$OUT/rootfs/bin/cobalt-docker-plugin"
# Each library where the program looks for it; the loader is among them.
ldd "$PROGRAM" | grep -o '/[^ )]*' | while read -r library; do
    mkdir -p "$OUT/rootfs${library%/*}"
    cp -L "$library" "$OUT/rootfs$library"
done

cat >"$OUT/config.json" <<JSON
{
  "description": "Cobalt: volumes on btrfs",
  "documentation": "docs/managed-plugin.md",
  "entrypoint": ["/bin/cobalt-docker-plugin"],
  "workdir": "/",
  "interface": { "types": ["docker.volumedriver/1.0"], "socket": "cobalt.sock" },
  "network": { "type": "host" },
  "pidhost": true,
  "propagatedMount": "$STATE",
  "mounts": [
    {
      "name": "run",
      "description": "where cobaltd listens and says which nodes are on this machine",
      "source": "$RUN_DIR",
      "destination": "/run/cobalt",
      "type": "bind",
      "options": ["rbind", "rslave"],
      "settable": ["source"]
    },
    {
      "name": "pool",
      "description": "the pool, at the path that cobaltd knows, or a folder above it",
      "source": "$POOL",
      "destination": "$POOL",
      "type": "bind",
      "options": ["rbind", "rslave"],
      "settable": []
    }
  ],
  "env": [
    {
      "name": "COBALT_API",
      "description": "where the API is: unix:///path or http://host:port, several with commas",
      "value": "unix:///run/cobalt/cobalt.sock",
      "settable": ["value"]
    },
    {
      "name": "COBALT_TOKEN_FILE",
      "description": "file with the token for http:// addresses; below /run/cobalt or the pool",
      "value": null,
      "settable": ["value"]
    },
    { "name": "RUST_LOG", "description": "how much is logged", "value": "info", "settable": ["value"] }
  ],
  "linux": {
    "capabilities": ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_CHROOT", "CAP_DAC_READ_SEARCH"],
    "devices": [],
    "allowAllDevices": false
  }
}
JSON
echo "made $OUT: docker plugin create cobalt $OUT"

# Everything a person or the CI types. The work is in scripts/.

# Where rustup puts cargo, for a root whose shell does not know it.
export PATH := $(PATH):$(HOME)/.cargo/bin
# The scripts look for the programs in target/.
unexport CARGO_TARGET_DIR CARGO_BUILD_TARGET

.DEFAULT_GOAL := help
.PHONY: help deps build demo check test integration lab lab-shell bench up down deb deb-check plugin-folder clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

deps: ## install from the distribution what is missing (as root); start no service
	@scripts/deps.sh

build: ## build the programs into target/release
	cargo build --locked --release -p cobaltd -p cobalt-docker-plugin

demo: deps ## show the main job, from docker volume create to a file, in a private folder (as root)
	@scripts/demo.sh

check: ## format, lints, unit tests and scenarios on fakes (quick, no root)
	@scripts/check.sh

test: ## everything, on a real etcd, btrfs and dockerd as well (as root)
	@scripts/test.sh

integration: ## only the tests on real parts (as root)
	@scripts/test.sh integration

lab: ## only the tests on the kernel's NFS, in an emulated guest (as root); SUITE=bookworm: the older one
	@scripts/deps.sh --lab
	@scripts/lab.sh test $(TEST)

lab-shell: ## a shell in that guest, which forgets all at the end (as root)
	@scripts/deps.sh --lab
	@scripts/lab.sh shell

bench: deps ## measure beside the least that must be done (as root); BENCH_QUICK=1 BENCH_ONLY=… BENCH_PEERS=1; BENCH_ONLY=lab: over NFS
	@scripts/bench.sh

up: deps build ## start Cobalt in the background to try it, and write .up.env (as root)
	@scripts/up.sh

down: ## end what `make up` started and remove its volumes (as root)
	@scripts/down.sh

deb: ## build the Debian packages into target/debian
	@scripts/deb.sh

deb-check: ## install, remove and purge them in a throw-away copy of this machine (as root)
	@scripts/deb-check.sh

plugin-folder: build ## build target/managed-plugin, for docker plugin create
	@scripts/plugin-folder.sh

clean: ## remove what was built
	cargo clean

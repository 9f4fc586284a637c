# `make cluster` and `make test` do all the set-up and then what they say.
# Everything that compiles goes through .ci/cargo, which installs or names what
# is missing and links one copy of RocksDB kept outside the tree.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO := .ci/cargo
# Options of the local cluster, for example: make cluster ARGS="--nodes 5 --fresh"
ARGS ?=
# Options of the two benchmarks. ARGS goes to both, so it can only hold what both know.
THROUGHPUT_ARGS ?=
FAILOVER_ARGS ?=
# Seconds of `make fuzz` for each of the 14 decoders, two of which run at a time, and
# which of them, for example: make fuzz FUZZ_SECONDS=600 ONLY="http journal"
FUZZ_SECONDS ?= 60
ONLY ?=
# Requests that `make openapi-check` makes up for each call of each node, and a program that
# was built already, if it is to ask that one.
EXAMPLES ?= 10
BUILT ?=
# The tests draw seeds and planted mistakes by this text, so that each commit meets
# others. Outside git it is a fixed one; each test prints it.
SYNOD_DRAW ?= $(shell git rev-parse HEAD 2>/dev/null || echo "no commit")
export SYNOD_DRAW
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## Say what there is.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install the system packages of the build, or say which are missing.
	@can=$$(.ci/setup tests); echo "set-up: the tests can use: $${can:-nothing special}"

.PHONY: rocksdb
rocksdb: ## Build RocksDB once for this machine, if that was not done yet.
	@$(CARGO) | grep ROCKSDB_LIB_DIR

.PHONY: env
env: ## Print the environment of the build, for: eval "$(make -s env)"
	@.ci/cargo

.PHONY: build
build: ## Build the optimised binary, target/release/synod.
	@$(CARGO) build --locked --release --bin synod
	@! $(TARGET_DIR)/release/synod --version | grep "built for tests"

.PHONY: cluster
cluster: build ## Start a local cluster of three nodes (ARGS="--nodes 5 --fresh").
	@exec $(TARGET_DIR)/release/synod cluster $(ARGS)

.PHONY: test
test: setup next ## Run every test.
	@if command -v cargo-nextest >/dev/null; then \
	    $(CARGO) nextest run --locked --workspace --config-file .ci/nextest.toml && \
	    $(CARGO) test --locked --workspace --doc; \
	else \
	    $(CARGO) test --locked --workspace; \
	fi
	@$(CARGO) test --locked -p synod-wire -p synod-journal --features synod-wire/next-version

# One version more, to be mixed with this release by tests/upgrade.rs. Built without the
# features that only tests ask for, in the folder of the other tests.
.PHONY: next
next: setup
	@$(CARGO) build --locked --features next-version --bin synod-next
export SYNOD_NEXT := $(abspath $(TARGET_DIR))/debug/synod-next

.PHONY: bench
bench: build ## Measure throughput and failover (FAILOVER_ARGS="--kills 5").
	@$(TARGET_DIR)/release/synod bench throughput $(ARGS) $(THROUGHPUT_ARGS)
	@$(TARGET_DIR)/release/synod bench failover $(ARGS) $(FAILOVER_ARGS)

.PHONY: verify
verify: ## Check format, lints, docs and crate boundaries; changes nothing.
	@.ci/setup
	@cargo fmt --all --check
	@$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@$(CARGO) clippy --locked -p synod-wire --features next-version --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet
	@.ci/check-crates
	@if command -v cargo-deny >/dev/null; then \
	    cargo deny check licenses bans sources; \
	else \
	    echo "verify: cargo-deny is not installed, licences are not checked"; \
	fi

.PHONY: openapi-check
openapi-check: setup ## Ask a cluster all that /openapi.json describes (EXAMPLES=100).
	@$(if $(BUILT),,$(CARGO) build --locked --quiet --bin synod)
	@.ci/openapi-check $(or $(BUILT),$(TARGET_DIR)/debug/synod) $(EXAMPLES)

.PHONY: planted
planted: setup ## Plant known bugs in the nodes; each must be found (5 minutes).
	@$(CARGO) run --locked --quiet -- sim planted
	@$(CARGO) test -p synod-paxos --test planted -- --nocapture

.PHONY: fuzz
fuzz: setup ## Give decoders bytes that nobody meant (FUZZ_SECONDS=600 ONLY=http).
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --locked --quiet -p synod --test fuzz -- \
	    --nocapture --test-threads=2 $(ONLY)

.PHONY: proof
proof: build next ## The long run for docs/ledger.md (SEEDS=50000 ROUNDS=10; over an hour).
	@SYNOD=$(TARGET_DIR)/release/synod .ci/proof $(ARGS)

.PHONY: clean
clean: ## Remove what the builds made (RocksDB stays in the cache).
	@cargo clean

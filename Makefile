# The README's commands. Each installs by itself what it needs and says so.
SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(or $(TRIERARCH_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/trierarch)/target
BINARY := $(CARGO_TARGET_DIR)/release/trierarch
UP_FLAGS ?=
BENCH_FLAGS ?=
CARGO := ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR="$$(scripts/rocksdb-lib)" cargo

.PHONY: help up down build test test-all golden lint bench bench-etcd bench-api chaos fuzz clean

help: ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

up: build ## Bring up three masters and two nodes on this machine
	@$(BINARY) up $(UP_FLAGS)

down: ## Remove everything that `make up` made
	@if [ -x "$(BINARY)" ]; then "$(BINARY)" down; else echo "nothing was built, so nothing is up"; fi

build: ## Build the release binary
	@scripts/build-deps
	@$(CARGO) build --release --package trierarch

test: ## Every test that needs neither root nor network
	@scripts/build-deps && scripts/tools >/dev/null && scripts/go-clients >/dev/null && scripts/bench-deps 3.4 3.5 3.7.1 etcdctl etcdutl >/dev/null
	@$(CARGO) test --workspace --no-fail-fast

test-all: ## `make test`, and the tests with real containers and namespaces (root)
	@scripts/build-deps && scripts/tools >/dev/null && scripts/go-clients >/dev/null && scripts/bench-deps 3.4 3.5 3.7.1 etcdctl etcdutl >/dev/null && scripts/node-deps
	@$(CARGO) test --workspace --no-fail-fast -- --include-ignored --skip etcdctl_checks

golden: ## Write the golden files of every kind anew: see `git diff` afterwards
	@scripts/build-deps
	@GOLDEN_BLESS=1 $(CARGO) test --package api-types --test it full::the_encoding
	@GOLDEN_BLESS=1 $(CARGO) test --package api-rules --test it full::every_kind
	@GOLDEN_BLESS=1 $(CARGO) test --package apiserver --test it golden::every_kind

lint: ## Formatting, clippy, crate boundaries, generated files
	@scripts/build-deps
	@cargo fmt --all --check
	@$(CARGO) clippy --workspace --all-targets -- -D warnings
	@$(CARGO) run --quiet --package xtask -- deps-check
	@$(CARGO) run --quiet --package xtask -- codegen --check
	@scripts/check-docs

bench: build ## Measure a cluster at rest, and the store against etcd in short
	@$(CARGO) build --release --quiet --package bench
	@$(CARGO_TARGET_DIR)/release/bench idle --binary "$(BINARY)"
	@$(MAKE) --no-print-directory bench-etcd BENCH_FLAGS="--rows put,txn,get,sget --runs 3 --places disk"

# BENCH_FLAGS="--rows put,watch --runs 3 --sizes 1 --places memory": docs/benchmarks.md and `bench etcd --help` say more.
bench-etcd: build ## Measure the store against every etcd at hand; writes docs/benchmarks.md
	@$(CARGO) build --release --quiet --package bench
	@etcds="$$(scripts/bench-deps)" && $(CARGO_TARGET_DIR)/release/bench etcd --binary "$(BINARY)" \
		$$(printf ' --etcd %s' $$etcds) --page docs/benchmarks.md $(BENCH_FLAGS)

# BENCH_FLAGS="--rows list,page --sizes 1": docs/benchmarks.md and `bench api --help` say more.
bench-api: build ## Measure the API server against Kubernetes' own; writes docs/benchmarks.md
	@$(CARGO) build --release --quiet --package bench
	@upstream="$$(scripts/upstream)" && $(CARGO_TARGET_DIR)/release/bench api --binary "$(BINARY)" $$upstream \
		--page docs/benchmarks.md $(BENCH_FLAGS)

chaos: build ## Play the chaos scenarios against real processes; those that cut masters off need root
	@if [ "$$(id -u)" = 0 ]; then scripts/chaos-deps; fi
	@$(CARGO) run --release --quiet --package chaos -- run --binary "$(BINARY)" chaos/scenarios
	@$(CARGO) run --release --quiet --package chaos -- etcd --binary "$(BINARY)" chaos/scenarios/etcd

# SECONDS=600 TARGETS="wal peer": fuzz/README.md says what they are.
fuzz: ## Play the fuzz targets, a minute each
	@scripts/build-deps
	@scripts/fuzz $(or $(SECONDS),60) $(TARGETS)

clean: down ## Remove the cluster and what was built
	@rm -rf "$(CARGO_TARGET_DIR)"

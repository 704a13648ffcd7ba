# Everything that is done with this repository. `make` alone lists it.

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

# Cargo.lock is what was tested: nothing here may change it.
CARGO_FLAGS ?= --locked
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Install what a fresh Debian 12 or 13 lacks, and build the test guest
	scripts/setup

.PHONY: build
build: ## Build everything
	cargo build --workspace $(CARGO_FLAGS)

.PHONY: lint
lint: ## Check formatting, lints and the documentation's links
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps $(CARGO_FLAGS)

# The run's last lines are the runner's count of tests.
.PHONY: test
test: setup lint ## Set up, lint, and run every test
	@if cargo nextest --version > /dev/null 2>&1; then \
		set -x; \
		cargo test --workspace --doc $(CARGO_FLAGS); \
		cargo nextest run --workspace --lib --bins --tests $(CARGO_FLAGS); \
	else \
		set -x; \
		cargo test --workspace --no-fail-fast $(CARGO_FLAGS); \
	fi

.PHONY: test-disk
test-disk: setup ## Test the guest's disk at length: 200 kills under load, fio with verification
	scripts/setup-packages fio:fio
	cargo build -p sustain-vmdriver --bins $(CARGO_FLAGS)
	SUSTAIN_DISK_KILLS=200 cargo test -p sustain-vmdriver --test disk $(CARGO_FLAGS) -- --include-ignored --nocapture --test-threads 1
	cargo test -p sustain-vmdriver --test qemu $(CARGO_FLAGS) -- disk:: --nocapture --test-threads 1

# Every call with several seeds, thousands of random histories, and hundreds of kills of real processes.
.PHONY: soak-crash
soak-crash: ## Crash the store at every call of its scripts, in its recovery, and by kill -9 (about 30 minutes)
	SUSTAIN_CRASH_SEEDS=$(or $(SEEDS),4) SUSTAIN_CRASH_CASES=$(or $(CASES),2000) \
		cargo test -p sustain-store --test it $(CARGO_FLAGS) -- crash --nocapture
	SUSTAIN_KILLS=$(or $(KILLS),200) cargo test -p sustain-cli --test suite $(CARGO_FLAGS) -- kills:: --nocapture

.PHONY: fuzz
fuzz: ## Fuzz every parser with libFuzzer (SECONDS_EACH=60; NAMES="pack manifest" for some; needs a C++ compiler)
	scripts/fuzz $(or $(SECONDS_EACH),60) $(TARGET_DIR) $(NAMES)

# Writes what a test then expects. What is stored in version 1 stays as it is: store/tests/store-v1 is never written anew.
.PHONY: fixture
fixture: ## Write docs/format.md's examples and the fuzzing corpus anew, for whoever adds to a format on purpose
	SUSTAIN_WRITE_FIXTURE=1 cargo test -p sustain-store --test it $(CARGO_FLAGS) -- format --nocapture
	SUSTAIN_WRITE_FIXTURE=1 cargo test -p sustain-fuzz --test seeds $(CARGO_FLAGS) -- --nocapture

.PHONY: soak-concurrency
soak-concurrency: ## Run all of the store's commands at once on one store, and kill some (2 minutes; SOAK_SECONDS=600 for more)
	SUSTAIN_CONCURRENCY_SECONDS=$(or $(SOAK_SECONDS),120) \
		cargo test -p sustain-cli --test suite $(CARGO_FLAGS) -- concurrency::commands_at_once --nocapture

.PHONY: soak-instant
soak-instant: setup ## Snapshot and restore a guest 100 times: memory and disk of one instant each time
	SUSTAIN_INSTANT_ROUNDS=100 cargo test -p sustain-vmdriver --test qemu $(CARGO_FLAGS) -- one_instant --nocapture

.PHONY: demo
demo: setup build ## Kill the server of a five-node cluster and watch its VM live on
	$(TARGET_DIR)/debug/snapctl demo

.PHONY: bench-pause
bench-pause: setup ## Measure a guest's pauses by snapshots, beside QEMU's own ways (about 7 minutes)
	cargo build $(CARGO_FLAGS) -p sustain-vmdriver --example bench-pause
	$(TARGET_DIR)/debug/examples/bench-pause

# In the target folder, not in memory: the store and the guest's writes take hundreds of MiB.
.PHONY: bench-pause-mail
bench-pause-mail: guest-mail ## Measure the mail guest's pauses, disk and all, at 800 mails a minute (about 2 minutes)
	command -v postal > /dev/null || { echo "postal is missing: apt-get install postal" >&2; exit 1; }
	cargo build $(CARGO_FLAGS) -p sustain-vmdriver --bins --example bench-pause
	$(TARGET_DIR)/debug/examples/bench-pause --mail $(or $(SUSTAIN_GUEST_MAIL_DIR),target/guest-mail) \
		--scratch $(TARGET_DIR)/debug --snapshots 30

.PHONY: soak-tracking
soak-tracking: setup ## Compare 1,000 snapshots under load with all memory, for each way of tracking writes
	SUSTAIN_SOAK_SNAPSHOTS=1000 cargo test $(CARGO_FLAGS) -p sustain-vmdriver --test qemu -- \
		--test-threads 1 --nocapture consistency::with_

# Where there is only one QEMU it says so. A script will do, for one in a folder of its own.
.PHONY: test-qemu-versions
test-qemu-versions: setup ## Restore states of one QEMU in another and back: SUSTAIN_QEMU_OTHER=/path/to/another
	cargo test $(CARGO_FLAGS) -p sustain-vmdriver --test qemu -- versions:: --nocapture
	if [[ -n "$${SUSTAIN_QEMU_OTHER:-}" ]]; then \
		SUSTAIN_QEMU="$$SUSTAIN_QEMU_OTHER" cargo test $(CARGO_FLAGS) -p sustain-vmdriver --test qemu -- --test-threads 1; \
	fi

.PHONY: bench-restore
bench-restore: setup ## Measure a restore from "go" to the guest's first answer, and its parts
	cargo build $(CARGO_FLAGS) -p sustain-vmdriver --example bench-restore
	$(TARGET_DIR)/debug/examples/bench-restore

.PHONY: setup-mail
setup-mail: setup ## Install what building the mail guest takes
	scripts/setup-mail

.PHONY: guest-mail
guest-mail: setup-mail ## Build the mail guest: Debian with Postfix, Dovecot and the guest agent
	testdata/guest-mail/build

# Minutes, so it is no part of `make test`.
.PHONY: test-mail
test-mail: guest-mail ## Save and restore the mail guest, and lose its server twice on four nodes (about 3 minutes)
	cargo test -p sustain-vmdriver --test mail $(CARGO_FLAGS) -- --include-ignored --nocapture
	cargo test -p sustain-cli --test suite $(CARGO_FLAGS) -- --ignored --nocapture guest_mail

.PHONY: bench-data
bench-data: guest-mail ## Make the states that the store is measured with: the mail guest's, under load (about 4 minutes)
	command -v postal > /dev/null || { echo "postal is missing: apt-get install postal" >&2; exit 1; }
	cargo build $(CARGO_FLAGS) -p sustain-vmdriver --bins --example bench-data
	$(TARGET_DIR)/debug/examples/bench-data --guest $(or $(SUSTAIN_GUEST_MAIL_DIR),target/guest-mail) \
		--to $(TARGET_DIR)/bench-data

.PHONY: bench-encodings
bench-encodings: ## Compare ways to store what changed between those states, beside whole programs (about 5 minutes)
	test -d $(TARGET_DIR)/bench-data || $(MAKE) bench-data
	cargo build $(CARGO_FLAGS) -p sustain-cli -p sustain-store --bin snapctl --example bench-store
	rustic=$$(scripts/bench-peers $(TARGET_DIR)/peers); \
	$(TARGET_DIR)/debug/examples/bench-store --data $(TARGET_DIR)/bench-data --snapctl $(TARGET_DIR)/debug/snapctl \
		--scratch $(TARGET_DIR)/bench-store --rustic "$$rustic" --only-encodings

# QUICK=1: one round, and without what takes minutes. In the target folder, so on its disk.
.PHONY: bench-store
bench-store: ## Compare the store with restic, borg, rustic and casync (about 10 minutes; QUICK=1 for 3)
	test -d $(TARGET_DIR)/bench-data || $(MAKE) bench-data
	cargo build $(CARGO_FLAGS) -p sustain-cli -p sustain-store --bin snapctl --example bench-store
	rustic=$$(scripts/bench-peers $(TARGET_DIR)/peers); \
	$(TARGET_DIR)/debug/examples/bench-store --data $(TARGET_DIR)/bench-data --snapctl $(TARGET_DIR)/debug/snapctl \
		--scratch $(TARGET_DIR)/bench-store --rustic "$$rustic" $(if $(QUICK),--quick)

.PHONY: bench-million
bench-million: ## Measure what a million chunks cost in memory, and how long their store takes to open (under a minute)
	SUSTAIN_STORE_INDEX_TEST_CHUNKS=1000000 cargo test $(CARGO_FLAGS) -p sustain-store --test it index_memory -- --nocapture

# In the target folder, not in memory: what is kept is synced.
.PHONY: bench-fragments
bench-fragments: ## Measure cutting packs into fragments, keeping these and building packs (half a minute)
	cargo build $(CARGO_FLAGS) -p sustain-store --example bench-fragments
	$(TARGET_DIR)/debug/examples/bench-fragments $(TARGET_DIR)/debug

# In the target folder, so on its disk. As root one of the neighbours is slowed, too.
.PHONY: bench-gather
bench-gather: ## Gather 384 MiB from five daemons, beside a QUIC stream, scp, rsync and sendme (2 minutes, and to build sendme)
	cargo build $(CARGO_FLAGS) -p sustain-cli -p sustain-gossip --bin snapctl --example bench-gather
	sendme=$$(scripts/bench-gather-peers $(TARGET_DIR)/peers); \
	$(TARGET_DIR)/debug/examples/bench-gather --snapctl $(TARGET_DIR)/debug/snapctl \
		--scratch $(TARGET_DIR)/bench-gather --sendme "$$sendme" $(if $(NODES),--nodes $(NODES))

.PHONY: bench-codes
bench-codes: ## Compare libraries for erasure codes (under a minute)
	cargo run $(CARGO_FLAGS) --manifest-path gossip/bench-codes/Cargo.toml --target-dir $(TARGET_DIR)/bench-codes

.PHONY: sim
sim: ## Simulate a thousand clusters of up to 1,000 nodes, a seed each (under 30 minutes; SEED=n replays one)
	cargo run $(CARGO_FLAGS) -p sustain-gossip --example sim

.PHONY: plots
plots: ## Play the placement's rules through, and draw what they cost and survive into docs/simulation (6 minutes)
	cargo run --manifest-path experiments/Cargo.toml --target-dir $(TARGET_DIR)/experiments --bin placement -- \
		--out docs/simulation

.PHONY: clean-guest
clean-guest: ## Remove the built guests, so that they are built anew
	rm -rf $(TARGET_DIR)/guest $(TARGET_DIR)/guest-mail

# `make demo` and `make test` need nothing but Rust, gcc and Python on Debian 12: `make test` installs its tools itself.

CARGO ?= cargo
export CARGO_TERM_COLOR ?= auto
# Minutes that each fuzz target runs.
MINUTES ?= 1
# The fuzzer's coverage and sanitizer are unstable options: of nightly where it is installed, else of the compiler that
# is there.
FUZZ = $(if $(findstring nightly,$(shell rustup toolchain list 2>/dev/null)),cargo +nightly fuzz,RUSTC_BOOTSTRAP=1 cargo fuzz)
# In the long functions of the ciphers every access would get a branch of its own, and LLVM take for ever over it: there the checks
# are calls.
FUZZ_FLAGS = -Cllvm-args=-asan-instrumentation-with-call-threshold=300
PYTHON_PACKAGES = scapy==2.8.* cryptography
# What has ports of DPDK. Selected like this, all dependencies are those of the build without.
DPDK = --workspace --exclude spillway-controlplane --features spillway-gateway/dpdk,spillway-bench/dpdk
# The tests' own Python, which `make tools` fills, goes before the system's.
export PATH := $(CURDIR)/target/python/bin:$(PATH)

.PHONY: all demo check test lint unit models dpdk dpdk-build dpdk-lint dpdk-test tools bench instructions bounds avx512 fuzz fuzz-tools deny clean

all:
	$(CARGO) build --release

## Two gateways, two hosts and an attacker in namespaces of their own. No root needed.
demo:
	$(CARGO) build --release --bin spillway
	target/release/spillway demo

## Format, lints and unit tests: what to run before every commit.
check: lint unit

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

unit:
	$(CARGO) test --workspace --lib --bins --locked

## Everything: unit tests, model checks, the tests with real peers and networks, and then those of the build with DPDK.
## Needs root for what has networks.
test: tools
	$(CARGO) test --workspace --lib --bins --locked
	$(CARGO) test --workspace --doc --locked
	$(MAKE) models
	$(CARGO) test --workspace --test '*' --locked -- --test-threads=1
	$(MAKE) dpdk-test

## Every interleaving of the replay window and of the sequence numbers (loom).
models:
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom $(CARGO) test -p spillway-dataplane --lib --release --locked loom

## Spillway with ports that DPDK drives: installs what that needs, builds it, and tests it.
dpdk: tools dpdk-build dpdk-lint dpdk-test

dpdk-build:
	$(CARGO) build --release --locked $(DPDK)

dpdk-lint:
	$(CARGO) clippy --locked $(DPDK) --all-targets -- -D warnings

# The tests of capsule-ffi, and everything that has DPDK in its name.
dpdk-test:
	$(CARGO) test --locked $(DPDK) --lib --bins --test '*' -- --test-threads=1 dpdk arguments:: port::tests:: queues::tests:: steer::tests::

## What the tests with real peers need. As root; does nothing when everything is there.
tools:
	deploy/test-tools.sh $(PYTHON_PACKAGES)

bench:
	$(CARGO) build --release -p spillway-bench
	target/release/spillway-bench crypto
	target/release/spillway-bench esp

## Instructions that a packet costs in the worker, held against bench/instructions.txt: a regression shows on a noisy machine
## too. Needs valgrind. RECORD=1 writes the file anew.
instructions:
	$(CARGO) build --release -p spillway-bench
	bench/instructions.sh

## Checks on the packets' way that can end in a panic, counted in the release build and held against bench/bounds.txt. Needs
## binutils. RECORD=1 writes the file anew.
bounds:
	$(CARGO) build --release -p spillway-bench
	bench/bounds.sh

## The tests of the engines with AVX-512 on an emulated CPU, for machines that have none. As root it installs what it needs;
## takes a quarter of an hour.
avx512:
	dataplane/avx512/run.sh

## Coverage-guided fuzzing of the packet path and of IKEv2.
fuzz: fuzz-tools
	for crate in dataplane controlplane; do \
		for target in $$(cd $$crate && cargo fuzz list); do \
			(cd $$crate && RUSTFLAGS="$(FUZZ_FLAGS)" $(FUZZ) run $$target -- \
				-max_total_time=$$(($(MINUTES) * 60))) || exit 1; \
		done || exit 1; \
	done

fuzz-tools:
	cargo fuzz --version >/dev/null 2>&1 || $(CARGO) install cargo-fuzz --locked

## Advisories, licences and sources of all dependencies; needs cargo-deny and a network.
deny:
	cargo deny check

clean:
	$(CARGO) clean

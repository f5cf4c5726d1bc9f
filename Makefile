# The ways in: each target sets up what is missing and wraps a CMake preset.
.DEFAULT_GOAL := build
.PHONY: setup build demo test bench fuzz format

JOBS ?= $(shell nproc)
# How long `make fuzz` runs each target.
FUZZ_SECONDS ?= 30

setup:
	@tools/setup

build: setup
	@cmake --preset release --log-level=WARNING
	@cmake --build --preset release -j $(JOBS)

demo: setup
	@cmake --preset release --log-level=WARNING
	@cmake --build --preset release -j $(JOBS) --target vernier
	@tools/demo

test: build
	@ctest --preset release -j $(JOBS)

bench: setup
	@cmake --preset release --log-level=WARNING
	@cmake --build --preset release -j $(JOBS) --target benches
	@tools/run_benches build/release

fuzz:
	@tools/setup clang-14 libclang-rt-14-dev libomp-14-dev
	@cmake --preset fuzz --log-level=WARNING
	@cmake --build --preset fuzz -j $(JOBS)
	@tools/run_fuzzers build/fuzz $(FUZZ_SECONDS)

format: setup
	@git ls-files '*.cc' '*.h' '*.cu' | xargs clang-format-14 -i

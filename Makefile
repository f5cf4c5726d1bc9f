# The ways in: each target sets up what is missing and wraps a CMake preset.
.DEFAULT_GOAL := build
.PHONY: setup build demo test bench format

JOBS ?= $(shell nproc)

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

format: setup
	@git ls-files '*.cc' '*.h' '*.cu' | xargs clang-format-14 -i

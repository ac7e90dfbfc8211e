# `make demo` shows edged, `make quick` checks a change. Each installs what it needs, once; the work is
# done by scripts/.
#
#   make demo                    build a small model to int8, teach it, ask it over MQTT
#   make demo PROMPT="..."       ask something else
#   make demo KEEP=1             keep broker and daemon running until Ctrl-C
#   make demo BUNDLE=DIR         use an existing bundle: needs no builder and no torch (for a Pi)
#   make quick                   the checks and the unit tests, in seconds: no torch, broker or root
#   make unit [ARGS="..."]       the tests of pure code, with all examples; ARGS go to pytest
#   make engine                  the tests of the engine: toy models on the real ONNX Runtime
#   make system                  the tests of the daemon: brokers, faults, boot, the real model
#   make builder                 the tests of the builder: from a source to a bundle
#   make test [ARGS="..."]       all tests
#   make check                   all static checks
#   make image [FOR=amd64]       the container image, for 64-bit Arm or x86-64 (scripts/build-image)
#   make release                 all files of a release, in dist/release; RELEASE_KEY=FILE signs them
#   make clean                   caches; `make distclean` also .venv/ and the built models

.DEFAULT_GOAL := help
.PHONY: help demo quick unit engine system builder test check image release clean distclean
.SUFFIXES:

# Many short programs run here. Where this is set, as in some containers, each would compile all that it
# imports, torch too.
unexport PYTHONDONTWRITEBYTECODE

# Literal: a dollar sign in a prompt stays a dollar sign. Only from the command line, because some
# shells export their own PROMPT.
ifeq ($(origin PROMPT),command line)
export EDGED_DEMO_PROMPT := $(value PROMPT)
endif
export EDGED_DEMO_BUNDLE := $(value BUNDLE)

help:
	@sed -n '4,18s/^#  *//p' Makefile

demo:
	@scripts/setup $(if $(value BUNDLE),broker,build broker)
	@.venv/bin/edged demo $${EDGED_DEMO_PROMPT:+"--prompt=$$EDGED_DEMO_PROMPT"} \
		$${EDGED_DEMO_BUNDLE:+"--bundle=$$EDGED_DEMO_BUNDLE"} $(if $(KEEP),--keep)

quick:
	@scripts/setup quick
	@scripts/quick

unit: extras = quick
engine: extras = dev
builder: extras = build dev
system: extras = build broker dev
unit engine system builder:
	@scripts/setup $(extras)
	@scripts/test tests/$@ $(ARGS)

test:
	@scripts/setup build broker dev
	@scripts/test $(ARGS)

check:
	@scripts/setup build broker dev
	@scripts/check

image:
	@scripts/setup dev
	@scripts/build-image $(FOR)

release:
	@scripts/setup dev
	@scripts/release $(ARGS)

clean:
	rm -rf dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find benchmarks edged tests scripts -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv $(filter-out models/specialists/,$(wildcard models/*/))

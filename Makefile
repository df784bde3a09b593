# make run       set everything up, then boot a Linux virtual machine to a shell in this terminal
# make test      set everything up, then pass the tests
# make test-all  the tests that take long as well
# make bench     the benchmarks, as ratios to what one would use instead
# make lint      ruff, mypy, the layering contracts
# make clean     remove all that was built
#
# PYTHON=...     the Python to build with (3.11 or newer)
# RUN=...        options for `manor run`, for example: make run RUN="--cpus 2 --memory 512M"
# TESTS=...      options for pytest, for example: make test TESTS="tests/unit/vmm -x"

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
RUN ?=
TESTS ?=
BENCH ?=

# Programs that tests compare with, as command=package.
ORACLES := iasl=acpica-tools qemu-system-x86_64=qemu-system-x86 busybox=busybox-static qemu-img=qemu-utils nbdkit=nbdkit \
	nbdinfo=libnbd-bin tshark=tshark mke2fs=e2fsprogs fsck.fat=dosfstools mcopy=mtools isoinfo=genisoimage dmidecode=dmidecode \
	qemu-ga=qemu-guest-agent newuidmap=uidmap ip=iproute2 iperf3=iperf3 dhclient=isc-dhcp-client cpio=cpio gpg=gpg gpgv=gpgv \
	ssh-keygen=openssh-client curl=curl virsh=libvirt-clients libvirtd=libvirt-daemon virt-install=virtinst

# What the native parts are made from. The generators import a few more modules of the package.
NATIVE_SOURCES := $(shell find src/manor/engine src/manor/mem \( -name '*.py' -o -name '*.pxd' -o -name '*.pyx' \) 2>/dev/null)

.PHONY: help run test test-all bench lint clean setup setup-test

help:
	@sed -n 's/^# \(make [a-z-]* .*\)/\1/p' Makefile

run: setup
	@$(BIN)/manor run $(RUN)

test: lint
	@$(BIN)/python -m pytest -q -m "not slow" $(TESTS)

test-all: lint
	@HYPOTHESIS_PROFILE=new $(BIN)/python -m pytest -q $(TESTS)

bench: setup-test
	@$(BIN)/python -m benchmarks $(BENCH)

lint: setup-test
	@$(BIN)/ruff check src tests benchmarks tools setup.py
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

setup: $(STAMP)-native
setup-test: $(STAMP)-native $(STAMP)-test

# A stamp is touched last: an interrupted set-up is never taken for a finished one.
$(STAMP)-venv: tools/setup/python
	@PYTHON="$(PYTHON)" tools/setup/python $(VENV)
	@touch $@

$(STAMP)-packages: pyproject.toml tools/setup/requirements.py $(STAMP)-venv
	@echo "Installing the Python packages that Manor needs ..."
	@$(BIN)/python tools/setup/requirements.py build run | $(BIN)/python -m pip install -q --disable-pip-version-check -r /dev/stdin
	@touch $@

$(STAMP)-install: setup.py pyproject.toml $(STAMP)-packages
	@MANOR_NATIVE=skip tools/setup/quiet $(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

# Compiles only what changed.
$(STAMP)-native: setup.py $(NATIVE_SOURCES) $(STAMP)-install
	@echo "Building the native parts (the first time takes a minute or two) ..."
	@tools/setup/quiet $(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(STAMP)-test: pyproject.toml tools/setup/requirements.py tools/setup/packages $(STAMP)-packages
	@echo "Installing what the tests need ..."
	@$(BIN)/python tools/setup/requirements.py test | $(BIN)/python -m pip install -q --disable-pip-version-check -r /dev/stdin
	@tools/setup/packages --optional "Some tests are skipped without these packages" $(ORACLES)
	@touch $@

clean:
	rm -rf $(VENV) build dist .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	git clean -fdqX src tests benchmarks tools

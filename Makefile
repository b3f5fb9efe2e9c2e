# make demo   the main job before your eyes, on real parts
# make test   every check and every test; what fails is run once more by itself (tests/suite.py)
# make matrix every change of a list's state under load, with kills, for all map types: 90 minutes
# make corpus published main.cf files: doctor's verdicts and setup, compared with real mail: 10 minutes
# make bench  how fast it is, beside what people use instead: under half an hour (docs/benchmarks.md)
# make bench-full   the same with all map types and subjects: about two hours
# make deb    the package for Debian 13, in dist
# make dist   wheel and source archive, in dist/
# make install, make uninstall   as root: into PREFIX, /opt/postfix-sync if not given, and DESTDIR
#
# They install what is missing: Debian's packages as root (or with sudo), the rest into .venv.

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
PREFIX ?= /opt/postfix-sync
DESTDIR ?=
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

# What the tests and the demo run for real, besides Mailman, which comes from pip.
PACKAGES := postfix postfix-lmdb postfix-cdb python3 python3-venv iproute2 procps
# debian/control's Build-Depends; without the compiler that dpkg-buildpackage would have, too.
DEB_PACKAGES := dpkg-dev debhelper dh-python pybuild-plugin-pyproject python3 python3-hatchling
# And what only the tests run: prometheus for its promtool, debootstrap and systemd-container for
# hosts that boot, the rest for manual pages, completions and the Debian package.
test bench bench-full: PACKAGES += openssh-client openssh-server podman runc netavark aardvark-dns iptables \
	postfix-pcre postfix-sqlite prometheus debootstrap systemd-container man-db groff-base mandoc zsh $(DEB_PACKAGES) lintian
# What people use instead of postfix-sync.
bench-full: PACKAGES += postgresql postfix-pgsql inotify-tools
# What postfix-sync itself needs, to be installed or packed.
install dist: PACKAGES := python3 python3-venv
deb: PACKAGES := $(DEB_PACKAGES)
MISSING = $(shell for package in $(PACKAGES); do \
	dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
		|| echo $$package; done)

# The tests start Python thousands of times: what it has compiled once, it has to find again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo 'make test-fast   lint, types, unit tests and quick integration tests: about a minute'
	@echo 'make lint, make types, make format, make clean'

# A package's service is started when it is installed, and openssh-server's would listen on port 22
# of a host that had none before. The tests want the program alone: this forbids to start services
# for as long as the shell runs that installs, and `update-rc.d disable` to start it with the host.
define no_services
[ -e /usr/sbin/policy-rc.d ] || { \
	trap '$(SUDO) rm -f /usr/sbin/policy-rc.d' EXIT; \
	printf '#!/bin/sh\nexit 101\n' | $(SUDO) install -m 755 /dev/stdin /usr/sbin/policy-rc.d; }
endef

.PHONY: packages
packages:
	@set -e; command -v apt-get >/dev/null || exit 0; \
	missing="$(MISSING)"; [ -z "$$missing" ] || { \
		if [ "$$(id -u)" != 0 ] && [ -z "$(SUDO)" ]; then \
			echo "not root and no sudo, so without: $$missing"; exit 0; fi; \
		echo "installing $$missing"; \
		case "$$missing" in *postfix*) \
			echo 'postfix postfix/main_mailer_type select No configuration' \
				| $(SUDO) debconf-set-selections;; esac; \
		$(SUDO) apt-get -q update; \
		$(no_services); \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive \
			apt-get -q install -y --no-install-recommends $$missing; \
		case "$$missing" in *openssh-server*) $(SUDO) update-rc.d ssh disable;; esac; \
		case "$$missing" in *prometheus*) $(SUDO) update-rc.d prometheus disable;; esac; \
		case "$$missing" in *postgresql*) $(SUDO) update-rc.d postgresql disable;; esac; }

$(VENV)/complete: pyproject.toml
	$(MAKE) packages
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

.PHONY: parts
parts: packages $(VENV)/complete
	@$(BIN)/python -c 'from tests.parts.mailman import installed; installed()'

.PHONY: demo
demo: parts
	$(SUDO) $(BIN)/python -m tests.demo

.PHONY: test
test: parts lint types
	$(BIN)/python -m tests.suite

# These tests wait most of the time, so JOBS of them run beside each other.
.PHONY: matrix
matrix: parts
	$(BIN)/python -m pytest -q -m matrix -n $(or $(JOBS),4) --dist worksteal tests/e2e

# These tests wait most of the time, too; each of JOBS workers has a Postfix of its own.
.PHONY: corpus
corpus: PACKAGES += postfix-pcre postfix-sqlite
corpus: parts
	$(BIN)/python -m pytest -q -m corpus -n $(or $(JOBS),4) --dist worksteal tests/corpus

.PHONY: install uninstall
install: packages
install uninstall:
	@$(PYTHON) -B tools/install.py $@ --prefix '$(PREFIX)' --destdir '$(DESTDIR)'

# The time is that of the last commit (without git, what hatchling takes for it): whoever builds the
# same again gets the same files, byte for byte.
.PHONY: dist
dist: export SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),1580601600)
dist: build/venv/complete
	build/venv/bin/python -m build --outdir dist .

build/venv/complete:
	$(MAKE) packages
	$(PYTHON) -m venv --clear build/venv
	build/venv/bin/pip install --quiet --disable-pip-version-check build
	touch $@

# Nothing else should run on this machine meanwhile.
.PHONY: bench bench-full
bench: parts
	$(SUDO) $(BIN)/python -m tests.bench

bench-full: parts
	$(SUDO) $(BIN)/python -m tests.bench --full

# In a copy: debhelper leaves much behind. It has only what goes into the package, nothing of tests.
# With Debian's own Python: another one that comes first in PATH lacks what it takes.
DEB_COPY := build/deb/postfix-sync
DEB_INPUTS := CHANGELOG.md LICENSE README.md completions config.example.yaml debian docs postfix_sync \
	pyproject.toml systemd

.PHONY: deb
deb: packages
	rm -rf build/deb
	mkdir -p $(DEB_COPY) dist
	cp -R $(DEB_INPUTS) $(DEB_COPY)
	cd $(DEB_COPY) && PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage \
		--build=binary --no-sign --no-check-builddeps
	@cd build/deb && for package in *.deb; do \
		mv $$package ../../dist/ && echo "built dist/$$package"; done

.PHONY: test-fast
test-fast: $(VENV)/complete lint types
	$(BIN)/python -m pytest -q -n 4 --dist worksteal -m 'not slow' tests/unit tests/integration

.PHONY: lint
lint: $(VENV)/complete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

.PHONY: types
types: $(VENV)/complete
	$(BIN)/mypy

.PHONY: format
format: $(VENV)/complete
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: clean
clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

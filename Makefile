# make run    starts an all-in-one cluster in ./var
# make test   everything that must hold, in its short form
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q

.PHONY: run test test-long test-kube bench bench-scale bench-web bench-kube docs screenshots setup setup-dev install uninstall dist audit check format clean

run: setup
	@$(BIN)/python scripts/run.py

# end to end once more with every listener on [::1]; skipped, with the reason, where a machine has none
ON_IPV6 := TELEPORT_TEST_LOOPBACK=::1 scripts/plain_shells.sh $(PYTEST) -rs
SOME := tests/cluster/test_cluster_openssh.py tests/cluster/test_cluster_addresses.py::test_a_host_is_reached_by_its_address \
	tests/cluster/test_cluster_first_run.py::test_following_what_make_run_prints_leads_to_a_shell \
	tests/cluster/test_cluster_join.py::test_a_host_joins_by_its_file_takes_a_session_and_needs_no_token_again \
	tests/cluster/test_cluster_join.py::test_a_host_joins_through_the_proxy

# End to end tests mostly wait, so three lists run side by side: two of end to end tests, and some of all others; the rest
# follows as others end. Each has clusters of its own. On two processors a third of their time is free with two lists.
END_TO_END := $(sort $(wildcard tests/cluster/test_*.py))
SECOND_LIST := $(sort $(wildcard tests/cluster/test_cluster_[l-z]*.py))
FIRST_LIST := $(filter-out $(SECOND_LIST),$(END_TO_END))
PAGES := tests/web tests/webui
GUARDS := tests/auth tests/security
THE_REST := tests $(addprefix --ignore=,$(END_TO_END) $(PAGES) $(GUARDS))

# What hangs is told while somebody still listens: a summary when a list takes too long, and every thread's stack where even
# pytest cannot end. (No faulthandler_timeout: it is a thread, and a process with threads forks no launcher.)
LIST := timeout --foreground --signal=ABRT --kill-after=30 4500 $(PYTEST) --session-timeout=4200 --durations=20
LONG := $(PYTEST) --timeout=900 --durations=20
LISTS = scripts/plain_shells.sh scripts/side_by_side.sh 3 "$(1) $(FIRST_LIST)" "$(1) $(SECOND_LIST)" "$(1) $(THE_REST)" \
	"$(1) $(PAGES)" "$(1) $(GUARDS)"

test: setup-dev check
	@$(call LISTS,$(LIST))
	$(ON_IPV6) $(SOME)

# what is long is long over IPv4; over IPv6 every end to end test runs in its short form
test-long: setup-dev check
	@export TELEPORT_LONG=1; $(call LISTS,$(LONG))
	$(ON_IPV6) --timeout=900 tests/cluster

# a real Kubernetes cluster on this machine, built once out of Debian's source package; needs root. Where it cannot be built
# the tests are skipped, with the reason
test-kube: setup-dev
	@scripts/kube-cluster.sh || true
	TELEPORT_TEST_KUBE=1 $(PYTEST) -rs tests/realkube

bench: setup-dev
	$(BIN)/python -m bench

# N hosts behind reverse tunnels, simulated; docs/benchmarks.md
N ?= 1000
bench-scale: setup-dev
	$(BIN)/python -m bench.scale --hosts $(N)

# the web client in Chromium; docs/benchmarks.md
bench-web: setup-dev
	$(BIN)/python -m bench.web

# kubectl through the proxy, against kubectl alone; docs/benchmarks.md
bench-kube: setup-dev
	$(BIN)/python -m bench.kube

docs: setup-dev
	$(BIN)/python scripts/docs.py

# docs/screenshots, by the tests that open the pages
screenshots: setup-dev
	TELEPORT_SCREENSHOTS=1 $(PYTEST) tests/webui

check:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@scripts/webui.sh check
	@scripts/webui.sh test

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	@scripts/webui.sh format

setup:
	@PYTHON=$(PYTHON) scripts/setup.sh runtime

setup-dev:
	@PYTHON=$(PYTHON) scripts/setup.sh dev

# this release into PREFIX (below DESTDIR, for packages), beside those that are there; EXTRAS="etcd postgresql dynamodb s3 hsm"
PREFIX ?= /usr/local
install: setup
	@PYTHON=$(PYTHON) PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' EXTRAS='$(EXTRAS)' scripts/install.sh install

uninstall:
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' scripts/install.sh uninstall

# the wheel, archives with an interpreter of their own, .deb and .rpm into dist/; docs/packages.md
SIGN_KEY ?=
dist: setup-dev
	$(BIN)/python -m scripts.dist --sign-key='$(SIGN_KEY)'

# known weaknesses of what the lock files pin; asks PyPI and npm, so it is no part of the tests
audit: setup-dev
	@PYTHON=$(PYTHON) scripts/audit.sh

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .hypothesis webui/node_modules src/teleport/web/static/app

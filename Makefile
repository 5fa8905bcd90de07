# One command to run, one to test; each sets up what it needs, in .venv, for the Python it is given:
#
#   make run      build Ladybug and serve examples/hello.py
#   make test     the whole suite, compiled and pure          make test PYTHON=python3.13
#   make check    formatting, lint, strict typing
#   make autobahn the whole Autobahn testsuite for WebSocket (20 minutes; needs a Python 2.7)
#   make bench    Ladybug beside its peers -> benchmarks/RESULTS.md (an hour; needs wrk)
#   make fuzz     every fuzz target for FUZZ_SECONDS each
#   make clean    remove what was built
#
# Two environments hold the package as a user would install it: compiled, and pure (LADYBUG_PURE=1). Nothing is built in
# the source tree, so no stale extension module can shadow an edited source.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
COMPILED := .venv/$(VERSION)-compiled
PURE := .venv/$(VERSION)-pure
SOURCES := pyproject.toml setup.py $(shell find ladybug -name '*.py' -o -name py.typed)
FUZZ_SECONDS ?= 60
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: run test test-compiled test-pure test-portable check format autobahn bench fuzz clean

run: $(COMPILED)/.installed
	$(COMPILED)/bin/ladybug --app-dir examples hello:app

# Two at a time, once both are built: most of the time tests wait. What each has to say comes when it is over.
test: $(COMPILED)/.ready $(PURE)/.ready .venv/autobahn/.tried .venv/node/.tried
	$(MAKE) --jobs=2 --output-sync=target test-compiled test-pure test-portable

# The integration tests drive a real server; each line takes other forms of it. Loop and poller are independent, and the
# life of the fleet does not depend on either.
test-compiled: $(COMPILED)/.ready .venv/autobahn/.tried .venv/node/.tried
	LADYBUG_TEST_FORM=compiled $(COMPILED)/bin/pytest

test-portable: $(COMPILED)/.ready .venv/autobahn/.tried .venv/node/.tried
	LADYBUG_TEST_FORM=compiled LADYBUG_TEST_LOOP=asyncio LADYBUG_TEST_POLLER=portable $(COMPILED)/bin/pytest tests/integration -m "not slow" --ignore tests/integration/lifecycle

test-pure: $(PURE)/.ready
	LADYBUG_TEST_FORM=pure LADYBUG_TEST_LOOP=asyncio $(PURE)/bin/pytest -m "not slow"

check: $(COMPILED)/.ready
	$(COMPILED)/bin/ruff format --check .
	$(COMPILED)/bin/ruff check .
	$(COMPILED)/bin/mypy

format: $(COMPILED)/.ready
	$(COMPILED)/bin/ruff format .
	$(COMPILED)/bin/ruff check --fix .

autobahn: $(COMPILED)/.ready
	$(COMPILED)/bin/python -m tests.integration.websocket.autobahn .venv/autobahn
	LADYBUG_TEST_FORM=compiled LADYBUG_AUTOBAHN=full LADYBUG_AUTOBAHN_REPORT=$(CURDIR)/.venv/autobahn/report \
	  $(COMPILED)/bin/pytest -s tests/integration/websocket/test_autobahn.py

bench:
	$(PYTHON) benchmarks/run.py --python 3.13,3.11 --out benchmarks/RESULTS.md

fuzz: $(COMPILED)/.ready
	LADYBUG_FUZZ_SECONDS=$(FUZZ_SECONDS) LADYBUG_TEST_FORM=compiled $(COMPILED)/bin/pytest tests/fuzz --timeout 0

# Other people's WebSocket clients. What cannot be had here is tried once, and its tests are skipped.
.venv/autobahn/.tried: $(COMPILED)/.ready
	$(COMPILED)/bin/python -m tests.integration.websocket.autobahn .venv/autobahn
	mkdir -p .venv/autobahn && touch $@

.venv/node/.tried:
	mkdir -p .venv/node
	-timeout 60 npm install --silent --no-audit --no-fund --fetch-retries 0 --prefix .venv/node ws
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(COMPILED)/.installed: $(SOURCES)
	test -x $(COMPILED)/bin/python || $(PYTHON) -m venv $(COMPILED)
	$(COMPILED)/bin/pip install $(PIP_FLAGS) --upgrade pip
	$(COMPILED)/bin/pip install $(PIP_FLAGS) '.[standard]'
	rm -rf build *.egg-info
	$(COMPILED)/bin/ladybug --version
	touch $@

$(PURE)/.installed: $(SOURCES)
	test -x $(PURE)/bin/python || $(PYTHON) -m venv $(PURE)
	$(PURE)/bin/pip install $(PIP_FLAGS) --upgrade pip
	LADYBUG_PURE=1 $(PURE)/bin/pip install $(PIP_FLAGS) '.[standard]'
	rm -rf build *.egg-info
	$(PURE)/bin/ladybug --version
	touch $@

# What only tests and checks need; kept apart, so that `make run` is quick.
%/.ready: %/.installed pyproject.toml
	$*/bin/pip install $(PIP_FLAGS) --group dev
	touch $@

# Where the stages meet. Each line below is a command that can be run by hand; `.venv/bin/python -m pipeline --help` teaches them.
PYTHON ?= python3
PY     := .venv/bin/python

AUDIO  ?= data/NSYNTH_GUITAR_MP3
NAME   ?= nsynth-guitar
CODEC  ?= encodec_24khz
RUN    ?= $(NAME)
PRESET ?= small
N      ?= 16
KEYS   ?=
TIMBRE ?=
LIKE   ?=
MOST_CANDIDATES ?= 16

# Folders are called shards, trainer, tests too: without this, make would find them up to date.
.PHONY: help setup data shards train samples instrument demo test pytest test-long bench bench-scale lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo                         everything on this machine alone: plucked notes to samples you can hear"
	@echo "make data                         download NSynth's guitar notes (335 MB)"
	@echo "make shards  AUDIO=... NAME=...   encode a folder of notes once (CODEC=$(CODEC))"
	@echo "make train   NAME=... RUN=...     train, or go on with, a run (PRESET=$(PRESET))"
	@echo "make samples RUN=... N=16         sample notes, decode them, write the page to listen to them"
	@echo "make instrument RUN=...           a playable instrument of a run (KEYS=40:76 TIMBRE=... LIKE=SET:KEY)"
	@echo "make test | test-long | bench | bench-scale | lint"

# --- installation -----------------------------------------------------------------------------------------------------
setup: .venv/installed

ifneq ($(shell grep -s '^uv = ' .venv/pyvenv.cfg),)    # `uv sync` made .venv, so uv looks after it
.PHONY: .venv/installed .venv/installed-dev

.venv/installed:
	@uv sync --quiet --inexact --no-dev

.venv/installed-dev:
	@uv sync --quiet --inexact

else
# Python compiles what it imports; compiling all of the packages at once takes longer than installing them.
PIP := $(PY) -m pip install --disable-pip-version-check --no-compile --constraint .venv/constraints.txt --editable

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "make: $(PYTHON) is Python %d.%d, but 3.11 or newer is needed; say make PYTHON=python3.11" % sys.version_info[:2])'
	@echo "Installing into .venv; the first time takes a minute or two."
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/constraints.txt: pyproject.toml | .venv/bin/python
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["tool"]["uv"]["constraint-dependencies"], sep="\n")' > $@

.venv/installed: .venv/constraints.txt
	@$(PIP) .
	@touch $@

.venv/installed-dev: .venv/constraints.txt
	@$(PIP) '.[dev]'
	@touch .venv/installed $@
endif

# --- the stages -------------------------------------------------------------------------------------------------------
data: setup
	@$(PY) -m pipeline download --out data

shards: setup
	@$(PY) -m pipeline encode $(AUDIO) --out shards/$(NAME) --codec $(CODEC)

train: setup
	@$(PY) -m trainer train --shards shards/$(NAME) --run runs/$(RUN) --preset $(PRESET)

samples: setup
	@$(PY) -m trainer sample --run runs/$(RUN) --out samples/$(RUN)/tokens --count $(N)
	@$(PY) -m pipeline listen samples/$(RUN)

# The trainer draws candidates and the pipeline chooses, in turns, until every key has a good one or has had enough.
CANDIDATES = instruments/$(RUN)/candidates
WANTED     = instruments/$(RUN)/wanted.json
SAMPLE     = $(PY) -m trainer sample --run runs/$(RUN) --out $(CANDIDATES)
INSTRUMENT = $(PY) -m pipeline instrument $(CANDIDATES) --out instruments/$(RUN) --most $(MOST_CANDIDATES) $(if $(LIKE),--like $(LIKE))

instrument: setup
	@$(SAMPLE) --candidates 4 $(if $(KEYS),--label pitch=$(KEYS)) $(if $(TIMBRE),--label instrument_str=$(TIMBRE))
	@$(INSTRUMENT)
	@while [ -f $(WANTED) ]; do $(SAMPLE) --wanted $(WANTED) && $(INSTRUMENT) || exit 1; done

demo: setup
	@$(PY) -m pipeline demo-notes data/demo-notes
	@$(MAKE) --no-print-directory shards AUDIO=data/demo-notes NAME=demo CODEC=encodec_mini
	@$(MAKE) --no-print-directory train NAME=demo RUN=demo PRESET=small
	@$(MAKE) --no-print-directory samples RUN=demo N=8
	@$(MAKE) --no-print-directory instrument RUN=demo MOST_CANDIDATES=8

# --- what must hold ---------------------------------------------------------------------------------------------------
# Side by side: mypy has one thread, and tests often wait for a process.
test: .venv/installed-dev
	@$(MAKE) --no-print-directory --jobs 2 lint pytest

pytest: .venv/installed-dev
	@$(PY) -m pytest --numprocesses auto --dist loadfile

test-long: .venv/installed-dev
	@$(PY) -m pytest -m long -rs --no-fold-skipped

bench: .venv/installed-dev
	@$(PY) -m tests.benchmarks

bench-scale: .venv/installed-dev
	@$(PY) -m tests.benchmarks.scale

lint: .venv/installed-dev
	@$(PY) -m ruff format --check
	@$(PY) -m ruff check
	@$(PY) -m mypy

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

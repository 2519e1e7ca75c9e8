# The two commands of a fresh machine: `make repro` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.locked
# DVC starts `python` by name: the one of .venv must come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help repro test test-browser test-survival check slow lab site experiments env landmarks lock clean

help: ## this list; every command makes .venv first if it is missing
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

repro: .git $(STAMP) ## everything on synthetic clips, from mp4 files to tables
	python -m cfnsr cluster -- dvc repro
	@python -m cfnsr compare | tail -n 1

# They start many processes: each reads what another has compiled, whatever the user's settings.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(STAMP) ## the tests
	pytest -m "not slow and not browser" -n auto --dist loadfile

check: $(STAMP) ## linters, types, imports: what a change must pass beside the tests
	ruff format --check .
	ruff check .
	mypy
	lint-imports

slow: .git $(STAMP) ## the longest tests: whole pipelines
	pytest -m slow

# Into a folder of its own: the environment stays as it is locked.
test-browser: .git $(STAMP) ## JupyterLab and the gallery in Chromium
	uv pip install --quiet --python $(BIN)/python --target build/browser --group browser
	PYTHONPATH=build/browser pytest -m browser tests/browser

test-survival: .git $(STAMP) ## kills, damaged files, full disks and hostile input, counted
	pytest -m slow -n auto --dist loadfile tests/survival

# Options go along: make lab LAB='--no-browser --allow-root'
lab: $(STAMP) ## JupyterLab, for the notebooks
	jupyter lab $(LAB)

site: $(STAMP) ## the gallery of all figures: build/site/index.html
	python -m cfnsr site

experiments: $(STAMP) ## what `dvc exp run` has tried: parameters that differ, and results
	dvc exp show --only-changed --drop '^(build|cfnsr|notebooks|runs|figures|README|CITATION|params.yaml$$)'

env: $(STAMP) ## .venv alone

# What finds the 68 points in a video: 100 MB, whose weights are not for commercial use.
landmarks: $(STAMP) ## what finds the 68 points of a face, for clips of your own
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[landmarks]'

# uv installs faster than pip and checks every hash; it is itself pinned in the lock.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		found=$$($(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null); \
		echo "error: $(PYTHON) is $${found:+Python $$found, }no Python >= 3.11; name one that is:" \
			"make env PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -o '^uv==[^ ]*' requirements.lock)"
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

# One version of each library for every supported Python (librosa 0.11 and 1.0 differ).
lock: $(STAMP) ## requirements.lock anew, with the newest version of every package
	uv pip compile pyproject.toml --group dev --extra slurm --universal --python-version 3.11 --fork-strategy fewest \
		--generate-hashes --no-header --no-annotate --upgrade --output-file requirements.lock

clean: ## delete build/ and runs/, so all that was trained
	rm -rf build runs

.git:
	@echo "This folder is not a git repository, and DVC needs one. Either clone the project with git," \
		"or run here: git init && git add . && git commit -m 'Import'"; exit 1

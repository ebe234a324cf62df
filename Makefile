# make run   the paper's experiment, notebooks 00 to 05, on real digits; variables are the parameters of the run:
#            make run DATASET=mnist PROFILE=paper SEED=1; ONLY="06 07" names other notebooks, ONLY=all runs every one
# make check  what to run before a commit: lint, import contract, types and the fast tests, a minute and a half
# make test  lint, unit tests, the sequence by papermill, and nbval: what it printed against the committed notebooks
# make rerun nbval executes every committed notebook itself, in the run folders that are there, and compares
# make bench the layer sweep beside what one would write instead: make bench DATASET=mnist TRAIN=10000 TEST=2000
# make trial what is promised never to be lost or wrong, tried hard: killed processes, damaged files, full disks, bad
#            inputs; make trial SIZE=long is the nightly one, KILLS=20 sets one number of cases
# make notebooks  execute the committed notebooks anew, with the defaults, and the figures that go with them
# make reference  do the runs of data/reference again: make reference RUNS=mnist-paper-seed0 for one of them
# make site  the pages of docs/ and the notebooks as a web site, build/site/index.html; needs no network
# make course  notebooks for students, with solutions left out, the solutions, and slides: build/course
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Tests of more than ten seconds, which `make check` leaves to `make test`.
SLOW := test_removals.py test_sequence.py test_audits.py test_candidates.py test_recorded.py test_text_data.py test_growth.py test_conditions.py test_frontier.py test_series.py test_real_data.py test_bench.py test_bounded_search.py test_claims.py test_sweep.py test_index.py test_memory.py test_paths.py test_saved.py test_explorer.py test_explorer_page.py test_trial.py test_shards.py test_shortcuts.py test_pretrained.py test_course.py test_self_checks.py

# Two processes share the test files, one after the other; the sequence of notebooks runs beside them.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

# A text as one word of the shell, which does not act on anything in it.
quoted = '$(subst ','\'',$(1))'

.PHONY: run lint check test rerun bench trial notebooks reference site course clean

# Every variable given on the command line is a parameter: DATASET=mnist means --dataset mnist.
run: $(VENV)/installed
	@$(BIN)/python -m ebe_utils run --make $(call quoted,$(MAKEOVERRIDES))

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# A hundred processes import the package; with its bytecode kept, also where the environment says otherwise, once is enough.
check: lint
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(PARALLEL) tests $(addprefix --ignore=tests/,$(SLOW))

test: $(VENV)/installed
	$(BIN)/ruff check .
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(PARALLEL)

rerun: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest notebooks

bench: $(VENV)/installed
	@$(BIN)/python -m ebe_utils.upkeep.benchmark --make $(call quoted,$(MAKEOVERRIDES))

trial: $(VENV)/installed
	@$(BIN)/python -m ebe_utils.upkeep trial --make $(call quoted,$(MAKEOVERRIDES))

notebooks: $(VENV)/installed
	$(BIN)/python -m ebe_utils.upkeep publish
	$(BIN)/ruff check notebooks

reference: $(VENV)/installed
	@$(BIN)/python -m ebe_utils.upkeep reference $(if $(RUNS),$(call quoted,$(RUNS)))

site: $(VENV)/installed
	$(BIN)/sphinx-build -q -W --keep-going -c docs -d build/doctrees . build/site
	@echo "build/site/index.html"

course: $(VENV)/installed
	@$(BIN)/python -m ebe_utils.upkeep course

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is needed; on Debian: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[test,notebooks,methods,site]'
	@touch $@

clean:
	rm -rf $(VENV) *.egg-info

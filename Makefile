# Every target makes .venv if it is missing and installs only what it needs itself. What is installed is remembered in
# stamps inside .venv, so nothing is installed twice until pyproject.toml or constraints.txt changes.
#
# All paths are relative, so a folder with spaces in its name is fine.

PYTHON ?= python3
VENV_PYTHON = .venv/bin/python
INSTALL = $(VENV_PYTHON) -m pip install --disable-pip-version-check --constraint constraints.txt --editable

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# make is told the order of the steps; two installers in one .venv would trip over each other.
.NOTPARALLEL:
.PHONY: help run test test-all mutations fits claims imitations busy-beaver translate decode segment kills clusters fuzz fuzz-gpu arm ported lint pictures gallery format docs bench clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

run: .venv/.runtime ## compare the wirings on Python's own source text, in three minutes; ARGS="…" goes to treadle compare
	.venv/bin/treadle compare $(ARGS)

# One process for each core, each with one thread: the tests that are about threads ask for them. Bytecode is kept even
# where the environment asks for none: tests start a hundred processes, and each would compile all of treadle again.
PYTEST = PYTHONDONTWRITEBYTECODE= MPLBACKEND=Agg OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test: .venv/.dev ## run the tests, covering combinations in place of all, in minutes; ARGS="…" goes to pytest
	$(PYTEST) -m "not slow" $(ARGS)

test-all: .venv/.dev ## run all tests, slow ones too, and three times the combinations of test; TREADLE_LONG=1: all of them; ARGS="…" goes to pytest
	$(PYTEST) $(ARGS)

mutations: .venv/.dev ## break the code in twenty places and see that the tests notice each; ARGS="…", see tests/mutations.py
	$(VENV_PYTHON) -m tests.mutations $(ARGS)

fits: .venv/.dev ## fit twelve public data sets with the defaults, beside simpler models; half an hour, ARGS="GunPoint sunspots" takes some
	$(VENV_PYTHON) -m benchmarks.fits $(ARGS)

claims: .venv/.dev ## compare wirings on 20 shuffled series, where no difference may be claimed, and on series of shocks, where one has to
	$(VENV_PYTHON) -m benchmarks.claims $(ARGS)

imitations: .venv/.runtime ## learn machines from short tapes, run them free on a thousand long ones
	$(VENV_PYTHON) -m benchmarks.imitations

busy-beaver: .venv/.runtime ## learn the busy beaver of 5 states, run it free for its 47 million steps
	$(VENV_PYTHON) -m benchmarks.imitations beaver5

translate: .venv/.dev ## learn dates, reversing and sorting in full, with accuracy by length; half an hour
	$(VENV_PYTHON) -m benchmarks.translate $(ARGS)

decode: .venv/.runtime ## follow 100 simulated users whose keys are found out, beside yardsticks; five minutes on two cores
	.venv/bin/treadle decode --study $(ARGS)

segment: .venv/.dev ## measure what the page about segmenting says; ARGS="vgg16.pth", which benchmarks/imagenet_trunk.py makes
	$(VENV_PYTHON) -m benchmarks.segment $(ARGS)

kills: .venv/.dev ## kill runs and every training command at random moments, and compare what they resume; some minutes
	TREADLE_KILLS=$(or $(COUNT),20) $(VENV_PYTHON) -m pytest tests/training/test_training_loop.py -k killed $(ARGS)
	TREADLE_KILLS=$(or $(COUNT),10) $(VENV_PYTHON) -m pytest tests/cli/test_kills.py $(ARGS)

clusters: .venv/.dev ## start clusters of Ray, kill trials and replicas on them, and see that nothing is lost; some minutes
	TREADLE_CLUSTERS=1 $(VENV_PYTHON) -m pytest tests/cli/test_on_ray.py tests/serving/test_on_ray.py $(ARGS)

fuzz: .venv/.dev ## a thousand random cells and wirings, compiled, against the interpreter; half an hour
	TREADLE_FUZZ=$(or $(COUNT),1000) $(VENV_PYTHON) -m pytest tests/engines/test_fuzz.py $(ARGS)

fuzz-gpu: .venv/.dev ## five hundred of them as kernels of a GPU, under Triton's interpreter; ten minutes
	TREADLE_FUZZ_GPU=$(or $(COUNT),500) $(VENV_PYTHON) -m pytest tests/engines/gpu/test_fuzz.py $(ARGS)

arm: .venv/.dev ## run the engine's tests on a 64-bit Arm processor that QEMU emulates; ten minutes, see docs/how-to/run-on-arm.md
	$(VENV_PYTHON) -m tests.arm $(ARGS)

ported: .venv/ported/.installed ## compare cells with published implementations, whose weights they take; what cannot be installed is skipped
	OMP_NUM_THREADS=1 .venv/ported/bin/python -m pytest tests/cells/test_ported.py $(ARGS)

# The variable spares pyright a look at the network for a newer version of itself.
lint: .venv/.dev ## ruff (lint and format), pyright, and who imports whom
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV_PYTHON) -m pyright
	.venv/bin/lint-imports --no-logo

pictures: .venv/.docs ## draw the pictures of the pages that no longer show what is so; ARGS="--learn" trains for them again
	PYTHONPATH=docs MPLBACKEND=Agg $(VENV_PYTHON) -m drawings $(ARGS)

gallery: .venv/.dev ## run every example and keep what it prints, for the page of examples; minutes
	$(VENV_PYTHON) docs/gallery.py

format: .venv/.dev ## let ruff mend what it can
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .

docs: .venv/.dev .venv/.docs ## run every example in docstrings and pages, then build the documentation into site/
	MPLBACKEND=Agg $(VENV_PYTHON) -m pytest --doctest-modules src/treadle docs README.md
	MPLBACKEND=Agg $(VENV_PYTHON) -m mkdocs build --strict
	$(VENV_PYTHON) -m pytest --noconftest tests/test_docs.py tests/test_docs_search.py

# Where there is nothing to time, its peers need not be installed either.
have_benchmarks = $(wildcard benchmarks/__main__.py)
bench: $(if $(have_benchmarks),.venv/.bench) ## time treadle against its peers
	$(if $(have_benchmarks),$(VENV_PYTHON) -m benchmarks $(ARGS),@echo "Nothing to time yet: benchmarks/ arrives with the compiler.")

clean: ## remove what was built and cached; .venv stays (remove it with rm -r .venv)
	rm -rf build dist site .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

# Asked only when .venv is about to be made; empty if all is well.
python_problem = $(shell \
	command -v "$(PYTHON)" >/dev/null \
		|| { echo "$(PYTHON) was not found: install Python 3.11 or newer, or say where it is: make PYTHON=/path/to/python"; exit; }; \
	"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null \
		|| { echo "$(PYTHON) is not a working Python 3.11 or newer; name one that is: make PYTHON=/path/to/python"; exit; }; \
	"$(PYTHON)" -c "import ensurepip, venv" 2>/dev/null \
		|| echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)")

.venv/.created:
	@$(if $(python_problem),$(error $(python_problem)))
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.runtime: .venv/.created pyproject.toml constraints.txt
	$(INSTALL) .
	@touch $@

# Of aeon the tests want nothing but the data that lies in it; its own dependencies are pinned below ours.
.venv/.aeon: .venv/.created constraints.txt
	$(VENV_PYTHON) -m pip install --disable-pip-version-check --constraint constraints.txt --no-deps aeon
	@touch $@

.venv/.dev: .venv/.aeon

# An environment of its own: what published implementations depend on does not change what treadle is tested with.
IN_PORTED = .venv/ported/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt
PORTED = minGRU-pytorch transformers mlstm-kernels ncps
.venv/ported/.installed: .venv/.created pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv .venv/ported
	$(IN_PORTED) --editable . pytest 'sybil[pytest]' hypothesis beartype
	@for package in $(PORTED); do $(IN_PORTED) $$package || echo "$$package cannot be installed here: its test is skipped"; done
	@touch $@

# .dev, .docs and .bench are the extras of the same names in pyproject.toml.
.venv/.dev .venv/.docs .venv/.bench: .venv/.%: .venv/.runtime
	$(INSTALL) '.[$*]'
	@touch $@

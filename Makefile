# Everything runs in $(VENV); nothing is installed elsewhere. A machine needs Python >= 3.11 and
# make, and no C compiler.
#
#   make quickstart       set up, search examples/quickstart.yaml, export the winner
#   make test             set up, run the tests
#
# Which torch: constraints.txt names the tested release, and pip takes the build that its index
# offers, which on Linux may bring several GB of CUDA libraries. To choose another build:
#
#   make setup PIP_FLAGS='--extra-index-url URL'      # an index of PyTorch's, e.g. its CPU one
#   make setup TORCH='torch==2.13.0+cu130' PIP_FLAGS='--extra-index-url URL'
#
# A torch that is in $(VENV) already is kept; after a change of mind, `make clean-venv` first.

VENV ?= .venv
TORCH ?= $(shell sed -n 's/^torch==/&/p' constraints.txt)
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n 2 --dist loadfile
QUICKSTART ?= runs/quickstart

# The first of these that runs and is new enough; `make PYTHON=/path/to/python3` overrides it.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo "$$python" && break; done)

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.autopeft-installed

.PHONY: help setup quickstart test lint format clean clean-venv

help:
	@echo "make setup        virtual environment in $(VENV), with tested versions"
	@echo "make quickstart   set up, search examples/quickstart.yaml, export the winner"
	@echo "make test         set up, run the tests (PYTEST_FLAGS='-m slow' for the long ones)"
	@echo "make lint         set up, check formatting, style, types and layers"
	@echo "make format       set up, format the code"
	@echo "make clean        remove caches and built files; keeps $(VENV) and runs/"
	@echo "make clean-venv   remove $(VENV)"

setup: $(INSTALLED)

# torch goes first and alone, so that its build is the chosen one when the others ask for it. The
# pin is left out of the constraints: TORCH stands for it.
$(INSTALLED): pyproject.toml constraints.txt
	@python="$(PYTHON)"; \
	if [ -z "$$python" ] || ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; \
	then \
		echo "AutoPEFT needs Python 3.11 or newer, got: $${python:-none}" >&2; \
		echo "hint: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	if [ ! -x "$(BIN)/python" ]; then \
		echo "making a virtual environment in $(VENV)"; \
		"$$python" -m venv "$(VENV)" || { \
			echo "hint: on Debian and Ubuntu, apt install python3-venv" >&2; \
			rm -rf "$(VENV)"; \
			exit 1; \
		}; \
	fi
	@sed '/^torch==/d' constraints.txt > "$(VENV)/constraints.txt"
	"$(BIN)/python" -m pip install $(PIP_FLAGS) -c "$(VENV)/constraints.txt" "$(TORCH)"
	"$(BIN)/python" -m pip install $(PIP_FLAGS) -c "$(VENV)/constraints.txt" -e '.[dev]'
	@touch "$(INSTALLED)"

# A second call shows the finished search again, or takes up one that was cut short.
quickstart: setup
	@if [ -f "$(QUICKSTART)/log.sqlite" ]; then \
		echo "$(BIN)/autopeft resume $(QUICKSTART)"; \
		"$(BIN)/autopeft" resume "$(QUICKSTART)"; \
	else \
		echo "$(BIN)/autopeft search examples/quickstart.yaml --output $(QUICKSTART)"; \
		"$(BIN)/autopeft" search examples/quickstart.yaml --output "$(QUICKSTART)"; \
	fi
	@rm -rf "$(QUICKSTART)-winner"
	"$(BIN)/autopeft" export "$(QUICKSTART)" --pick knee --to peft "$(QUICKSTART)-winner"

test: setup
	"$(BIN)/python" -m pytest $(PYTEST_FLAGS)

lint: setup
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports" --no-logo
	@if [ -x "$(BIN)/hadolint" ]; then \
		echo "$(BIN)/hadolint docker/Dockerfile"; "$(BIN)/hadolint" docker/Dockerfile; \
	else echo "no hadolint for this platform: docker/Dockerfile is not linted"; fi

format: setup
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . \( -path "./$(VENV)" -o -path ./runs \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv:
	rm -rf "$(VENV)"

# What people and CI both call. Each target does its own set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILDER ?= podman
BASE ?= $(KFP_VISION_BASE)
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' kfp_vision/__init__.py)

# Where the demo deploys to, and `make serve` serves from.
REPOSITORY := runs/sample-flowers
PORT ?= 8000
# Many tests wait for a server or a container; a third file then uses the cores. People want theirs for other work.
WORKERS ?= $(if $(CI),3,2)

# A short training from random weights, on pictures drawn on the spot: what a laptop without a network can do.
DEMO := -p images_uri=sample -p fine_tune=false -p gpu_count=0 -p model_name=sample-flowers \
	-p image_size=80 -p batch_size=32 -p train_steps=240 -p optimizer=adam -p learning_rate=0.001 \
	-p learning_rate_schedule=cosine -p deploy_to=$(REPOSITORY)

# Without `--format docker` podman leaves the health check out.
BUILD = $(BUILDER) build $(if $(findstring podman,$(BUILDER)),--format docker) $(KFP_VISION_BUILD_OPTIONS) \
	--build-arg VERSION=$(VERSION) $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(LOCK),--build-arg LOCK=$(LOCK)) \
	$(if $(WEIGHTS),--build-arg WEIGHTS="$(WEIGHTS)")
DEFAULT_BASE = $(shell sed -n 's/^ARG BASE=//p' images/cpu/Dockerfile)
# A command may be there without an engine behind it.
ANSWERS = $(BUILDER) info >/dev/null || { echo "error: $(BUILDER) must have an engine that answers. Install podman, or say BUILDER=docker." >&2; exit 1; }
PLACE = $(if $(REGISTRY),$(REGISTRY)/)

.PHONY: help install demo serve test coverage fix check compile graphs docs docs-links bench image image-cpu image-gpu image-serve image-check image-test image-tables push release clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-12s %s\n", $$1, $$2 }'

install: $(INSTALLED) ## a virtual environment in .venv with everything

$(INSTALLED): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu,serve,heif,docker,completion,docs,dev]'
	@touch $@

demo: $(INSTALLED) ## pictures in, a deployed model and its answer over HTTP out, in two to three minutes
	$(BIN)/kfp-vision run image_classification $(DEMO)

serve: $(INSTALLED) ## the demo's model as a web page, and for programs, until Ctrl-C; PORT=8000
	@test -d $(REPOSITORY) || $(MAKE) demo
	$(BIN)/kfp-vision serve $(REPOSITORY) --port $(PORT)

test: $(INSTALLED) ## the quick tests, two files at a time (WORKERS=2; 3 in CI); ALL=1 for every test; ARGS='-k name' goes to pytest
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 40 $(if $(ALL),--all) $(ARGS)

coverage: $(INSTALLED) ## the quick tests' line coverage, file by file; ARGS as for test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --cov --cov-report term tests/unit $(ARGS)

fix: $(INSTALLED) ## mends what ruff can mend by itself, and formats
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: $(INSTALLED) ## style, types, and whether every YAML is up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf .types && mkdir -p .types/kfp_vision
	@ln -s $(CURDIR)/kfp_vision/* $(CURDIR)/components $(CURDIR)/pipelines .types/kfp_vision/
	cd .types && MYPYPATH=. $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p kfp_vision
	$(BIN)/kfp-vision compile --check
	$(BIN)/python .ci/release check

compile: $(INSTALLED) ## the YAML of every pipeline and the tables of docs/reference, anew
	$(BIN)/kfp-vision compile

graphs: $(INSTALLED) ## the picture of every pipeline in docs/graphs, anew; needs graphviz
	$(BIN)/python -m kfp_vision.pipelines.graphs

docs: $(INSTALLED) ## the pages as HTML in docs/_build; a warning, such as a broken link, is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky --fresh-env -b html docs docs/_build

docs-links: $(INSTALLED) ## every link of the pages to elsewhere, asked for over the network
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b linkcheck docs docs/_build/links

bench: $(INSTALLED) ## every benchmark, and the table in benchmarks/README.md
	$(BIN)/python -m benchmarks

image: image-cpu image-gpu image-serve ## all container images, with podman or BUILDER=docker, on BASE=...

image-cpu: ## the small one: all that runs without a GPU
	$(BUILD) -f images/cpu/Dockerfile -t $(PLACE)kfp-vision:$(VERSION) .

image-gpu: ## the one for training on an NVIDIA GPU
	$(BUILD) -f Dockerfile.gpu -t $(PLACE)kfp-vision-gpu:$(VERSION) .

image-serve: ## the server alone, without TensorFlow
	$(BUILD) -f images/serve/Dockerfile -t $(PLACE)kfp-vision-serve:$(VERSION) .

image-check: ## what the images of the stages and of the server hold, checked from the inside
	$(BUILD) -f images/cpu/Dockerfile --target test .
	$(BUILD) -f images/serve/Dockerfile --target test .

image-test: $(INSTALLED) ## all images built and checked, and pipelines run in them
	@$(ANSWERS)
	KFP_VISION_BASE=$(or $(BASE),$(DEFAULT_BASE)) BUILDER=$(BUILDER) $(BIN)/python -m pytest tests/containers

image-tables: $(INSTALLED) ## the tables of images/README.md, of the images as they are built
	@$(ANSWERS)
	$(BIN)/python images/tables.py $(BUILDER)

push: ## all container images to REGISTRY=host/path, once make image REGISTRY=host/path has built them
	@test -n "$(REGISTRY)" || { echo "error: REGISTRY must name where to push to. Say REGISTRY=ghcr.io/team, for example." >&2; exit 1; }
	$(BUILDER) push $(PLACE)kfp-vision:$(VERSION)
	$(BUILDER) push $(PLACE)kfp-vision-gpu:$(VERSION)
	$(BUILDER) push $(PLACE)kfp-vision-serve:$(VERSION)

release: $(INSTALLED) ## names REGISTRY=host/path in all YAML, and records the version that CHANGELOG.md begins with as released
	$(if $(REGISTRY),$(BIN)/python .ci/release fill $(REGISTRY))
	$(if $(REGISTRY),$(BIN)/kfp-vision compile >/dev/null)
	$(BIN)/python .ci/release record

clean: ## removes what the other targets made, but no runs
	rm -rf $(VENV) docs/_build docs/_beside .bench .types .cache .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info

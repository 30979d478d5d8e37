# `make` sets up, runs the pipeline and shows the verdict; `make help` lists all targets.
.DEFAULT_GOAL := all
.PHONY: all env dev cluster-env data pipeline verdict docs publish push pull s3 lint format test test-ci test-airflow test-slow mutants hooks lock clean help \
	doctor gc reproduce review accept secrets audit licences sbom
.NOTPARALLEL:  # `all` is a sequence

BIN := .venv/bin/
S3 = $(BIN)crashcast s3 $(addprefix --port=,$(S3_PORT))
# dvc.yaml's commands say `python`
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# settings of the user that would slow DVC down (no .pyc files) or add other code
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME
# no notice of a newer pip: the lock decides
export PIP_DISABLE_PIP_VERSION_CHECK := 1

all: env data pipeline verdict publish  ## set up, simulate the demo fleet, run the pipeline, show the verdict, push to the local S3

env: .venv/.package  ## install the locked environment in .venv
dev: .venv/.dev  ## the same, with the packages for tests and checks

cluster-env: .venv/.cluster  ## env, and the packages for a cluster's driver and workers (docs/cluster.md)

# A changed lock makes a new environment, so that packages which it no longer names are gone.
.venv/.runtime: requirements-build.txt requirements.txt
	@set -e; found=; for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
		if $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
		then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 with the venv module: install one (on Debian: apt-get install python3-venv)," \
			"or name one that is not on PATH: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "Setting up .venv with $$($$found --version), a minute or two"; \
	$$found -m venv --clear .venv
	$(BIN)python -m pip install --quiet --no-compile --require-hashes -r requirements-build.txt
	$(BIN)python -m pip install --quiet --no-compile --require-hashes --no-build-isolation -r requirements.txt
	$(COMPILE)
	@touch $@

# without .pyc files every dvc call takes a second longer
COMPILE = -$(BIN)python -m compileall -qq -j 0 .venv/lib

.venv/.package: .venv/.runtime pyproject.toml
	$(BIN)python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: .venv/.package requirements-dev.txt
	$(BIN)python -m pip install --quiet --no-compile --no-deps --require-hashes -r requirements-dev.txt
	$(COMPILE)
	@touch $@

.venv/.cluster: .venv/.package requirements-cluster.txt
	$(BIN)python -m pip install --quiet --no-compile --require-hashes --no-build-isolation -r requirements-cluster.txt
	$(COMPILE)
	@touch $@

# A killed `dvc` leaves an incomplete list of the files to transfer, and the next one would take it for complete.
FORGET = $(BIN)python -c 'from dvc.repo import Repo; Repo().drop_data_index()'

# `dvc repro` without its advice to `git add` files that are tracked already, and to switch core.autostage on: a change of
# raw data by hand would then count as accepted.
REPRO = $(BIN)python -c 'import logging, sys; from dvc.cli import main; \
	logging.getLogger("dvc.repo.scm_context").setLevel("WARNING"); sys.exit(main(["repro"]))'

pull = $(S3) --elsewhere=run -- crashcast pull $(1)

# Imported data is never replaced by simulated data; only its missing files are pulled.
data: env  ## get raw data: simulate the demo fleet, or pull imported data
	@if [ "$$($(BIN)python -c 'from crashcast.params.data import Data; print(Data.read().source)' 2>&1)" = import ]; then \
		missing=; for file in data/raw/*.dvc; do [ -e "$${file%.dvc}" ] || missing="$$missing $$file"; done; \
		[ -z "$$missing" ] || $(call pull,$$missing); \
	else $(BIN)crashcast demo; fi

pipeline: env  ## run the stages whose inputs changed
	@# a `dvc` killed while it wrote this file leaves it empty, and the next one refuses to read that
	@[ ! -f .dvc/tmp/rwlock ] || [ -s .dvc/tmp/rwlock ] || rm .dvc/tmp/rwlock
	@echo dvc repro
	@$(REPRO)

verdict: env  ## show the figures of the last run, and outputs that differ from the committed ones
	@$(BIN)crashcast verdict
	@$(BIN)crashcast reproduced

docs: env  ## build Great Expectations' Data Docs of the raw data, valid or not
	@$(BIN)crashcast docs

publish: env
	@$(FORGET)
	@$(S3) --elsewhere=skip -- dvc push

push: env  ## push data and models to DVC's remote, and check the stored objects
	@$(S3) --elsewhere=run -- crashcast push

doctor: env  ## find data that is lost, damaged or not pushed; ARGS=--repair repairs it
	@$(S3) --elsewhere=run -- crashcast doctor $(ARGS)

gc: env  ## delete data that no commit needs; lists it first, and asks
	@$(S3) --elsewhere=run -- crashcast gc --remote $(ARGS)

reproduce: env  ## rebuild a commit from its raw data, and compare every hash with its dvc.lock; REV=v1.0.0
	@$(S3) --elsewhere=run -- crashcast reproduce $(or $(REV),HEAD) $(ARGS)

review: env  ## compare HEAD's model with that of the main branch; ARGS="--base REV" names another
	@# REJECT (1) and INCONCLUSIVE (3) are answers, and no error of make's
	@$(S3) --elsewhere=run -- crashcast review $(ARGS) || case $$? in 1|3) ;; *) exit 2;; esac

accept: env  ## register HEAD's model as a version, if the review accepts it; on main, after the merge
	@$(S3) --elsewhere=run -- crashcast accept $(ARGS)

pull: env  ## pull data and models from DVC's remote
	@$(call pull,$(TARGETS))

s3: env  ## run the local S3 server until Ctrl-C
	@$(S3)

lint: dev  ## check style and types
	$(BIN)ruff check
	$(BIN)ruff format --check
	$(BIN)mypy

format: dev  ## correct the style automatically
	$(BIN)ruff check --fix
	$(BIN)ruff format

# a test that hangs ends with its stack, and the others go on; none takes five minutes
RUN_TESTS = $(BIN)pytest -n auto --dist loadfile --no-loadscope-reorder \
	-o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true

test: dev  ## run the tests; ten minutes
	$(RUN_TESTS) -m "not slow and not ci and not airflow" $(ARGS)

test-ci: dev  ## run the tests that take minutes: kills, attacks, browsers, machines, simulations; CI does
	$(RUN_TESTS) -m "ci and not slow" $(ARGS)

.venv-airflow/.done: deploy/airflow/requirements.txt | .venv/.dev
	$(BIN)python -m venv --clear .venv-airflow
	.venv-airflow/bin/python -m pip install --quiet --no-compile --require-hashes -r $<
	-.venv-airflow/bin/python -m compileall -qq -j 0 .venv-airflow/lib
	@touch $@

test-airflow: dev .venv-airflow/.done  ## run the DAG of deploy/airflow with the real Airflow; five minutes
	$(BIN)pytest -m airflow $(ARGS)

mutants: dev  ## see whether tests fail if the code is wrong, for one error at a time; takes an hour; ARGS=alarms
	$(BIN)python benchmarks/mutants.py $(ARGS)

test-slow: dev  ## run the slow tests
	$(BIN)pytest -m slow $(ARGS)

secrets: dev  ## search all commits for credentials
	$(BIN)kingfisher scan --config=.kingfisher/config.yaml --no-update-check . --branch=HEAD

audit: dev  ## list known vulnerabilities of the locked packages (OSV database); needs the network
	$(BIN)pip-audit --strict --disable-pip --progress-spinner=off --vulnerability-service=osv \
		$(addprefix --requirement=,$(wildcard requirements*.txt)) $(ARGS)

licences: dev  ## list the licences of the installed packages
	@$(BIN)pip-licenses --from=mixed --with-system --order=license --packages $$(sed -n 's/==.*//p' requirements.txt) $(ARGS)

sbom: dev  ## write reports/sbom.json, the bill of materials of requirements.txt in CycloneDX format
	@mkdir -p reports
	@PYTHONWARNINGS=ignore $(BIN)cyclonedx-py requirements requirements.txt --pyproject=pyproject.toml \
		--output-reproducible --output-file=reports/sbom.json $(ARGS)

hooks: dev  ## install git hooks: lint and search for credentials before a commit, check pushed data before a push
	@.githooks/install
	$(BIN)pre-commit install

UV_COMPILE = $(BIN)uv pip compile --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --quiet
lock: dev  ## update requirements*.txt from pyproject.toml; UPGRADE=--upgrade takes the newest releases
	$(UV_COMPILE) $(UPGRADE) pyproject.toml -o requirements.txt
	$(UV_COMPILE) $(UPGRADE) --extra operate -c requirements.txt pyproject.toml -o requirements-operate.txt
	$(UV_COMPILE) $(UPGRADE) --extra notebooks -c requirements-operate.txt pyproject.toml -o requirements-notebooks.txt
	$(UV_COMPILE) $(UPGRADE) --extra cluster -c requirements-notebooks.txt pyproject.toml -o requirements-cluster.txt
	$(UV_COMPILE) $(UPGRADE) --group build -c requirements.txt -o requirements-build.txt
	$(UV_COMPILE) $(UPGRADE) --group airflow -o deploy/airflow/requirements.txt
	$(UV_COMPILE) $(UPGRADE) --group dev -c requirements-operate.txt -c requirements-notebooks.txt \
		-c requirements-cluster.txt -c requirements-build.txt -o requirements-dev.txt

clean:  ## remove the environment; data, models and DVC's cache stay
	rm -rf .venv .venv-airflow

help:  ## show this list
	@awk -F ':[^#]*## *' '/^[a-z0-9-]+:.*##/ {printf "%-11s %s\n", $$1, $$2}' Makefile

# Everything starts here. Needs make and Python 3.11 or newer; makes its own environment in .venv.
#
#   make demo                 three nodes work through real files while nodes are killed
#   make test                 all tests
#   make demo SCENE=drain     another scene; `make demo ARGS=--help` names them all
#   make demo ARGS="--help"   options are passed on

SHELL  := /bin/sh
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
SEEDS  ?= 2000
CLUSTER_SEEDS ?= 600
WORKFLOW_SEEDS ?= 5000
MINUTES ?= 5
WORKERS ?= 2
ARGS   ?=
SCENE  ?=
PYTHON ?=

# The first Python that is new enough; `make setup PYTHON=python3.12` chooses another.
FIND_PYTHON = for p in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done

.DEFAULT_GOAL := help
.PHONY: help setup demo test check sim sim-scheduler sim-bugs sim-cluster fuzz coverage chaos chaos-net chaos-disk chaos-work chaos-agents chaos-budget chaos-streams bench \
	bench-routing bench-sandbox bench-dag bench-mapreduce sim-workflows proto fmt clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv and install everything into it (all other targets do it when needed)

$(STAMP): pyproject.toml
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then \
		echo "no Python 3.11 or newer among: $(or $(PYTHON),python3 python3.13 python3.12 python3.11);" \
			"name one with PYTHON=..." >&2; exit 1; \
	fi; \
	set -e; \
	if command -v uv >/dev/null 2>&1; then \
		test -x $(BIN)/python || uv venv --quiet --python "$$python" $(VENV); \
		uv pip install --quiet --python $(BIN)/python -e '.[dev]'; \
	else \
		test -x $(BIN)/python || "$$python" -m venv $(VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 -e '.[dev]'; \
	fi
	@touch $@

demo: $(STAMP)  ## the main job on real input, with nodes killed on the way
	$(BIN)/python -m coterie.node.demo $(if $(SCENE),--scene $(SCENE)) $(ARGS)

test: $(STAMP)  ## unit, property and real-process tests, WORKERS=2 files at a time
	$(BIN)/python -m pytest -m "not chaos" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(STAMP)  ## lint, format, types, import law, generated code, wheel
	$(BIN)/python -m tests.tools.check $(ARGS)

sim: $(STAMP)  ## the Raft engine under simulated faults, SEEDS=2000 of them
	$(BIN)/python -m tests.sim.raft --seeds $(SEEDS) --nodes 3,5 $(ARGS)

sim-scheduler: $(STAMP)  ## scheduler and state machine under simulated load and faults, SEEDS=2000
	$(BIN)/python -m tests.sim.scheduler --seeds $(SEEDS) $(ARGS)

sim-cluster: $(STAMP)  ## the whole cluster under simulated faults, histories checked, CLUSTER_SEEDS=600
	$(BIN)/python -m tests.sim.cluster --seeds $(CLUSTER_SEEDS) --nodes 3,5 $(ARGS)

sim-workflows: $(STAMP)  ## random workflows against a plain interpreter, WORKFLOW_SEEDS=5000
	$(BIN)/python -m tests.sim.workflows --seeds $(WORKFLOW_SEEDS) $(ARGS)

sim-bugs: $(STAMP)  ## bugs planted on purpose: a simulator or a directed test must find each
	$(BIN)/python -m tests.sim.raft.bugs $(ARGS)
	$(BIN)/python -m tests.sim.cluster --bugs

fuzz: $(STAMP)  ## bytes of strangers for every decoder, MINUTES=5 of them
	$(BIN)/python -m tests.tools.fuzz --minutes $(MINUTES) $(ARGS)

coverage: $(STAMP)  ## which lines of coterie.core and coterie.raft no test runs
	$(BIN)/python -m tests.tools.coverage $(ARGS)

chaos: $(STAMP)  ## longer runs with faults on real processes
	$(BIN)/python -m pytest -m chaos $(ARGS)

chaos-net: $(STAMP)  ## bars with cut networks on five hosts; ARGS=--full for the size that proves something
	$(BIN)/python -m tests.chaos.bars 3 8 13 $(ARGS)

chaos-disk: $(STAMP)  ## bars with failing disks: power, damage, fsync, space; ARGS=--full likewise
	$(BIN)/python -m tests.chaos.bars 9 10 11 12 $(ARGS)

chaos-agents: $(STAMP)  ## 500 agents at work while nodes are killed and stopped: every thought paid once, every run answered
	$(BIN)/python -m tests.chaos.agents $(ARGS)

chaos-work: $(STAMP)  ## bars of failover, overload, poison and sizes; ARGS=--full likewise
	$(BIN)/python -m tests.chaos.bars 4 5 6 7 14 15 20 21 24 $(ARGS)

chaos-budget: $(STAMP)  ## 500 callers race for one budget while leaders die and are cut off, on 3 and 5 nodes: overshoot 0
	$(BIN)/python -m tests.chaos.budget --nodes 3 --kills 8 --cuts 8 $(ARGS)
	$(BIN)/python -m tests.chaos.budget --nodes 5 --kills 8 --cuts 8 $(ARGS)

chaos-streams: $(STAMP)  ## the words of models are read while nodes are killed: joined texts = recorded answers
	$(BIN)/python -m tests.chaos.streams $(ARGS)

.PHONY: chaos-workflows
chaos-workflows: $(STAMP)  ## the shipped workflows, 100 runs or more until 40 nodes were killed, one every 2 s: each ends as it must
	$(BIN)/python -m tests.chaos.workflows $(ARGS)

chaos-skills: $(STAMP)  ## a revision becomes live under 100 runs of another, all nodes die in turn: runs keep theirs
	$(BIN)/python -m tests.chaos.skills $(ARGS)

bench: $(STAMP)  ## throughput, latency and failover figures of this machine
	$(BIN)/python -m bench.run $(ARGS)

bench-dag: $(STAMP)  ## workflows: a wide one, one of 10,000 nodes, a chain of 1,000
	$(BIN)/python -m bench.dag $(ARGS)

bench-mapreduce: $(STAMP)  ## map_reduce in documents a second; ARGS="--window 16 --window 256"
	$(BIN)/python -m bench.map_reduce $(ARGS)

bench-sandbox: $(STAMP)  ## what the sandbox of untrusted skills costs, and what it holds
	$(BIN)/python -m bench.sandbox $(ARGS)

bench-steps: $(STAMP)  ## what a recorded step costs with fsync, and what an idle agent weighs
	$(BIN)/python -m bench.steps $(ARGS)

bench-routing: $(STAMP)  ## the routing strategies side by side on uneven nodes
	$(BIN)/python -m bench.routing $(ARGS)

proto: $(STAMP)  ## make the gRPC code from proto/ again
	$(BIN)/python -m tests.tools.stubs

fmt: $(STAMP)  ## put the code into its one format
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

clean:  ## remove everything that was made, .venv too
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .sim .coterie-dev demo-report
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

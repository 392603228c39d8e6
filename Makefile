# The commands of this repository. `make demo` and `make test` install what they need (Debian 12, as root).
# One set of packages and features everywhere (--workspace), so that no command builds the dependencies a second time.

TRIPLE := $(shell rustc -vV | sed -n 's/^host: //p')
CARGO := cargo
SEEDS ?= 20000
RATE ?= 300
DURATION ?= 10

.PHONY: help demo test lint unit sim processes compose bench upgrade build setup clean

help:
	@echo 'make demo            three nodes, one emergency call: the route flips in mid-call, its node is killed'
	@echo 'make test            everything: lint, unit, simulation, processes, compose'
	@echo 'make lint|unit|processes|compose    one group of it'
	@echo 'make sim SEEDS=n     more seeds of the simulation (SEED=n runs that one only)'
	@echo 'make bench           calls a second, CPU and memory a call [RATE=n DURATION=n]'
	@echo 'make upgrade OLD=<commit>   three nodes of that commit, replaced one by one under calls'
	@echo 'make build           target/release/sbcd and target/release/sbcctl'

setup:
	@deploy/setup.sh build

# .cargo/config.toml names the target, so cargo writes to target/<triple>/release; the documented place is target/release.
build: setup
	$(CARGO) build --release --workspace --bins
	@mkdir -p target/release
	@for b in sbcd sbcctl; do ln -f target/$(TRIPLE)/release/$$b target/release/$$b; done

demo: build
	target/release/sbcctl dev demo

test:
	@cluster-tests/run.sh lint unit simulation processes compose

lint unit processes compose:
	@cluster-tests/run.sh $@

# SEEDS and SEED are read by the simulation itself.
sim: setup
ifdef SEED
	SIM_SEED=$(SEED) $(CARGO) test --workspace --test sim -- one_seed --nocapture
else
	SIM_SEEDS=$(SEEDS) $(CARGO) test --workspace --test sim -- --nocapture
endif

bench: build
	$(CARGO) build --release --workspace --bins
	target/$(TRIPLE)/release/bench --rate $(RATE) --seconds $(DURATION)

# The version before is built beside this one, in target/upgrade, and kept there.
upgrade: setup
	@test -n '$(OLD)' || { echo 'usage: make upgrade OLD=<commit>' >&2; exit 2; }
	@deploy/checkout.sh '$(OLD)' target/upgrade/src
	cd target/upgrade/src && $(CARGO) build --workspace --bins --target-dir ../target
	$(CARGO) build --workspace --bins
	target/$(TRIPLE)/debug/upgrade target/upgrade/target/$(TRIPLE)/debug

clean:
	$(CARGO) clean

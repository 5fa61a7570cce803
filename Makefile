# One word a task. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nodepool-operator
DENY_VERSION := 0.20.2
DENY := $(CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny
# Integration tests wait most of their time: more of them at once than there are cores.
TEST_THREADS ?= 4
# Only tests whose name contains this: `make integration TESTS=fill`.
TESTS ?=
# What tests/clients.rs runs: the Go program, the Python packages. Says so when it has to make them.
CLIENTS := tests/clients/gophercloud/build >/dev/null && tests/openstack/venv >/dev/null
CHART := charts/nodepool-operator
# What tests/page.rs looks with: a browser, and what drives it.
PAGE := tests/page/build >/dev/null
# Tests whose name begins with this boot machines, which takes minutes: they are compiled and linted with the others, and
# run by `make test-vm` alone.
ON_MACHINES := on_machines::
# The same of tests that run Pods, of `make test-e2e`.
ON_A_NODE := on_a_node::
# Each check of `make test` says how long it took.
step = @echo; echo "== $(1)"

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ See it
.PHONY: demo demo-down
demo: ## Two simulated clouds (CLOUD=openstack: a real OpenStack), a real Kubernetes API, the operator; stays running
	@demo/up
demo-down: ## End the demo
	@demo/down

##@ Check it
.PHONY: test format lint licences unit integration clients conformance chaos sample test-vm test-e2e bench advisories
test: format lint licences unit integration ## Everything below up to `integration`: what CI runs

format: ## Formatting is rustfmt's
	$(call step,format)
	cargo fmt --check

lint: ## Clippy, warnings are errors
	$(call step,lint)
	cargo clippy --locked --all-targets -- -D warnings

licences: $(DENY) ## Licences, sources and banned crates (deny.toml)
	$(call step,licences)
	$(DENY) --locked check bans licenses sources

unit: ## Unit and property tests
	$(call step,unit)
	cargo test --locked --lib --bins
	cargo test --locked --doc

integration: ## The real operator against a real kube-apiserver, simulated clouds and a real OpenStack
	$(call step,integration)
	cargo test --locked --no-run --test '*'
	$(CLIENTS)
	tests/helm/build >/dev/null
	$(PAGE)
	tests/kubernetes/with tests/openstack/with cargo test --locked --no-fail-fast --test '*' -- --test-threads=$(TEST_THREADS) --skip $(ON_MACHINES) --skip $(ON_A_NODE) $(TESTS)

clients: ## The openstack command, openstacksdk and gophercloud, unmodified, against the simulator
	cargo test --locked --no-run --test clients
	$(CLIENTS)
	cargo test --locked --test clients -- --test-threads=$(TEST_THREADS) $(TESTS)

conformance: ## One suite against the simulator and a real OpenStack; ends with a table of what holds where
	cargo test --locked --no-run --test conformance
	tests/openstack/with cargo test --locked --test conformance -- --test-threads=$(TEST_THREADS) $(TESTS) \
	  | tests/conformance/table

test-vm: ## Images built on, tried on and booted by real machines in emulation (root; tests/openstack/README.md)
	cargo test --locked --no-run --test vm
	tests/kubernetes/with tests/openstack/with --virt=libvirt \
	  cargo test --locked --test vm -- --nocapture $(ON_MACHINES)

test-e2e: image ## The chart on a real Node and the real OpenStack: install, kill, upgrade, uninstall, install again (root)
	cargo test --locked --no-run --test e2e
	tests/helm/build >/dev/null
	tests/kubernetes/build node >/dev/null
	tests/openstack/with --for=pods tests/kubernetes/with --node \
	  cargo test --locked --test e2e -- --nocapture $(ON_A_NODE)

# Seconds of new seeds; `make chaos CHAOS_SEED=7` plays one again.
CHAOS_SECONDS ?= 600
chaos: ## Faults, kills and rival leaders by chance, for ten minutes; prints how to replay what failed
	cargo test --locked --no-run --test crash
	CHAOS_SECONDS=$(CHAOS_SECONDS) tests/kubernetes/with cargo test --locked --test crash -- --nocapture chaos::

sample: ## Build the image of deploy/samples/images/job.yaml, boot it in QEMU and log in (needs root)
	tests/images/build-sample

bench: ## The figures of docs/performance.md: release build, real kube-apiserver, simulated cloud, for uploads a real one
	tests/kubernetes/with cargo bench --locked --bench performance

advisories: $(DENY) ## Known vulnerabilities of dependencies (needs the network)
	$(DENY) --locked check advisories

##@ Change it
.PHONY: crds chart image kubernetes openstack openstack-down
crds: ## Write crds/ from the types, and the chart's copy
	cargo run --locked --quiet --bin nodepool-operator -- crds --output crds
	cp crds/*.yaml $(CHART)/files/crds/

chart: ## Write the chart's README from its values, lint it, and package it into target/
	helm=$$(tests/helm/build) && \
	  $$helm/helm-docs --log-level error --sort-values-order file --chart-search-root $(CHART) && \
	  $$helm/helm lint --strict --quiet $(CHART) && \
	  $$helm/helm package --destination target $(CHART)

image: ## Build the container image, an OCI archive, and its SBOM into target/image; NODE=DIR of a test Node also loads it
	archive=$$(deploy/image/build) && echo "$$archive"$(if $(NODE), && tests/kubernetes/node/load "$(NODE)" "$$archive")

openstack: ## Start a real OpenStack on this machine (tests/openstack/README.md); print its clouds.yaml
	@tests/openstack/up
openstack-down: ## End it; its data stays
	@tests/openstack/down

kubernetes: ## Build etcd, kube-apiserver, kube-controller-manager and kubectl into the cache; print where
	@tests/kubernetes/build

# Not optimised: it checks a few hundred crates in a second either way, and builds in a third of the time.
$(DENY):
	cargo install --locked --debug --root $(CACHE)/cargo-deny-$(DENY_VERSION) --version $(DENY_VERSION) cargo-deny

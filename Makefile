# What there is to do, each with what it needs. `make` alone lists the targets.

.DEFAULT_GOAL := help
SHELL := bash

GO       ?= go
# Never from the cache: the servers are not part of its key. A package's tests share
# two cores with real servers; -p above 2 only queues. Tests that are parallel mostly
# wait, so there are more of them than cores. make lint vets.
# GOGC is for the compiler (.ci/run): some tests look at their own heap.
TESTFLAGS ?= -race -count=1 -timeout 15m -p 2 -parallel 4 -vet=off -exec 'env -u GOGC'
# Kafka without its optimizing compiler, which works for half of a run on what a test
# asks of it; benchmarks and long runs are worth its work. Postgres without a disk, which
# only a machine that dies would miss.
SERVERS  := PERDURE_TEST_KAFKA_JVM=-XX:TieredStopAtLevel=1 PERDURE_TEST_POSTGRES_MEMORY=1
# The longest first, so that none runs alone at the end.
ALL      := ./worker ./relay ./loadtest ./replayer ./dlq ./dispatcher ./internal/embedded ./internal/app ./internal/app/demo \
            ./docs ./internal/claims ./internal/app/stage ./...
PKGS     ?= $(ALL)
# What the linters load is compiled as the tests are (-race), so that it is compiled
# once for both; the linter itself is not.
LINT     := GOFLAGS="$$GOFLAGS -race" "$$($(GO) tool -modfile=.ci/tools/go.mod -n golangci-lint)"

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## the disputes demo on embedded servers, end to end; needs only Go
	$(GO) run ./cmd/perdure demo

.PHONY: build
build: ## bin/perdure, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/perdure ./cmd/perdure

.PHONY: test
test: ## all tests, on the real servers that this machine can run (PKGS=./relay/... for some)
ifeq ($(PKGS),$(ALL))
test: models peers
endif
test: on-servers

.PHONY: models
models: ## the explored models and the walks beside them: too slow under -race, and of one goroutine
	$(GO) test -count=1 -run '^Test(ModelHolds|EveryMutationIsCaught|StoreWalksAsTheSpecification)$$' ./internal/claims ./internal/blocks

.PHONY: peers
peers: ## what judges the comparison with others, a module of its own; its tables need servers, see their tests
	$(GO) -C loadtest/peers test -race -count=1 -vet=off -short .

.PHONY: on-servers
on-servers: ## make test without the models and the peers
	$(SERVERS) .ci/with-servers $(GO) test $(TESTFLAGS) $(PKGS)

.PHONY: lint
lint: ## gofmt, golangci-lint with go vet and the import rule
	@unformatted=$$(gofmt -l .); \
	if [[ -n $$unformatted ]]; then echo "not gofmt'd (gofmt -w):"; echo "$$unformatted"; exit 1; fi
	$(LINT) run ./...
	GOFLAGS="$$GOFLAGS -race" $(GO) -C loadtest/peers vet ./... # a module of its own

.PHONY: schemathesis
schemathesis: ## Schemathesis against /openapi.json of a running system; needs Python and PyPI
	.ci/schemathesis

.PHONY: generate
generate: ## rewrite every generated file
	$(GO) generate ./...

.PHONY: bench
bench: ## all benchmarks on real servers, tests left out
	.ci/with-servers $(GO) test -run '^$$' -bench . -benchmem -p 1 -timeout 60m $(PKGS)

.PHONY: soak
soak: ## the long runs (files tagged soak) on three brokers
	PERDURE_TEST_BROKERS=3 .ci/with-servers $(GO) test -tags soak -run Soak -count 1 -p 1 -timeout 6h $(PKGS)

# Everything that is done to this repository is done from here. Run `make help`.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

SERVICES := supernode gateway scheduler cdn registry
MODULES  := api pkg services/cdn services/gateway services/registry services/scheduler services/supernode test test/sim
TOOLS    := $(CURDIR)/.bin

# Tools, each with its own dependencies, at versions that are changed on purpose.
BUF           := github.com/bufbuild/buf/cmd/buf@v1.75.0
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
PROTO_TOOLS   := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12 \
                 google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2 \
                 github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway@v2.33.0 \
                 github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2@v2.33.0

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || true)
DATE     ?= $(shell git log -1 --format=%cI 2>/dev/null || true)
BUILD    := github.com/supernode-ha/supernode/pkg/buildinfo
LDFLAGS  := -X $(BUILD).version=$(VERSION) -X $(BUILD).revision=$(REVISION) -X $(BUILD).buildDate=$(DATE)

.PHONY: help build run demo test faults chaos bench bench-net bench-swarm sim fuzz lint fmt proto proto-check modules clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the commands into bin/
	@mkdir -p bin
	@for s in $(SERVICES); do go build -ldflags '$(LDFLAGS)' -o bin/$$s ./services/$$s/cmd/$$s; done

run: build ## Run a supernode for a local try: dfget --node 127.0.0.1:8002 --ip 127.0.1.1 …
	exec bin/supernode --home-dir .try/supernode --advertise-ip 127.0.0.1

DEMO_SEED ?= $(shell date +%s)
demo: ## Watch twenty peers download a file from three supernodes that are killed all the time; DEMO_SEED names who is and when
	@mkdir -p bin
	@go build -o bin/demo ./test/cmd/demo
	@exec bin/demo -seed $(DEMO_SEED)

# What dies, hangs and fills up is measured against bounds, so it has the machine to itself.
# Nothing is taken from go's cache: it does not know that tests build the commands that they run.
test: ## Run all tests, with the race detector
	go test -race -count 1 -timeout 11m $$(go list work | grep -v /test/faults$$)
	go test -race -count 1 -timeout 11m ./test/faults

faults: ## Kill, hold, cut off and fill up everything in a large cluster, with figures; takes more than an hour
	go test -timeout 100m -parallel 1 -tags faults -v ./test/faults

CHAOS_SEED ?= $(shell date +%s)
CHAOS_TIME ?= 15m
chaos: ## Let a cluster live through CHAOS_TIME of killed, held and stopped processes while peers download; CHAOS_SEED names the schedule
	CHAOS_SEED=$(CHAOS_SEED) CHAOS_TIME=$(CHAOS_TIME) go test -tags chaos -timeout 0 -count 1 -run TestChaos ./test/chaos -v

bench: build ## Measure downloads of 300 KB, 9 MB and 200 MB on loopback, a migration, and where 1,000 tasks are put and copied
	go test -run '^$$' -bench . -benchtime 5x -timeout 30m ./test/bench
	go test -run '^$$' -bench 'Place|Repair|Life|ResolveKnown' ./services/registry
	go test -run '^$$' -bench Replicate -benchtime 3x ./test/integration
	go test -run '^$$' -bench 'Reports|Peer' -benchtime 5x ./services/scheduler/internal/replication ./services/scheduler/internal/swarm
	go test -run '^$$' -bench 'TaskSize|Entry' -benchtime 5x ./services/scheduler/internal/task ./services/gateway/internal/registrations
	go test -run '^$$' -bench Offer -benchtime 20000x ./services/scheduler/internal/swarm

# What is not given is the command's default, see bin/bench-net -help. RATE and SERVER are Mbit/s, SIZE is MB, LOCAL_LIMIT MiB/s.
NET_FLAGS = $(if $(HOSTS),-hosts $(HOSTS)) $(if $(RATE),-rate $(RATE)) $(if $(RATES),-rates $(RATES)) $(if $(SERVER),-server $(SERVER)) \
            $(if $(SIZE),-size $(SIZE)) $(if $(ARRIVE),-arrive $(ARRIVE)) $(if $(UNREACHABLE),-unreachable $(UNREACHABLE)) \
            $(if $(CRASH),-crash $(CRASH)) $(if $(RUNS),-runs $(RUNS)) $(if $(SUPERNODES),-supernodes $(SUPERNODES)) \
            $(if $(KILL),-kill-owner $(KILL)) $(if $(DFGET),-dfget $(DFGET)) $(if $(LOCAL_LIMIT),-local-limit $(LOCAL_LIMIT)) \
            $(if $(BIN),-bin $(BIN)) $(if $(SEED),-seed $(SEED)) $(if $(FLAGS),-supernode-flags '$(FLAGS)')
bench-net: build ## Measure downloads on links that are the bottleneck, as root; HOSTS RATE SERVER SIZE and more choose a scenario, DFGET a real client
	@go build -o bin/ ./test/cmd/bench-net ./test/cmd/etcd
	@exec bin/bench-net $(NET_FLAGS)

# The same: what is not given is the default of bin/bench-swarm. SIZE is MB.
SWARM_FLAGS = $(if $(PEERS),-peers $(PEERS)) $(if $(TASKS),-tasks $(TASKS)) $(if $(PIECES),-pieces $(PIECES)) $(if $(SIZE),-size $(SIZE)) \
              $(if $(RAMP),-ramp $(RAMP)) $(if $(PIECE_TIME),-piece-time $(PIECE_TIME)) $(if $(FAIL),-fail $(FAIL)) \
              $(if $(CRASH),-crash $(CRASH)) $(if $(UNREACHABLE),-unreachable $(UNREACHABLE)) $(if $(LIE),-lie $(LIE)) \
              $(if $(COMPARE),-compare) $(if $(FLOOD),-flood $(FLOOD)) $(if $(FLOOD_SIZE),-flood-size $(FLOOD_SIZE)) $(if $(SETTLE),-settle $(SETTLE)) \
              $(if $(SOAK),-soak $(SOAK)) $(if $(CHURN),-churn $(CHURN)) $(if $(EVERY),-every $(EVERY)) $(if $(REPORT),-report $(REPORT)) \
              $(if $(PROCESSES),-processes $(PROCESSES)) $(if $(ADDRESS),-address $(ADDRESS)) $(if $(PIDS),-pid $(PIDS)) $(if $(URL),-url '$(URL)') \
              $(if $(RUNS),-runs $(RUNS)) $(if $(SEED),-seed $(SEED)) $(if $(TIMEOUT),-timeout $(TIMEOUT)) $(if $(BIN),-bin $(BIN)) \
              $(if $(FLAGS),-supernode-flags '$(FLAGS)')
bench-swarm: build ## Measure the control plane with many peers that move no bytes; PEERS TASKS PIECES RAMP and more choose what they do, SOAK how long, FLOOD what disturbs them, COMPARE a run without faults
	@go build -o bin/ ./test/cmd/bench-swarm ./test/cmd/etcd
	@exec bin/bench-swarm $(SWARM_FLAGS)

SIM_PEERS ?= 10000
sim: ## Simulate the scenarios of up to SIM_PEERS peers and write the tables and plots of docs/simulation.md
	go run ./test/sim/cmd/simdocs -largest $(SIM_PEERS)

FUZZTIME ?= 20s
fuzz: ## Fuzz every parser that faces the network for FUZZTIME each
	@grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do \
	  for f in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+).*/\1/p' $$file); do \
	    echo "$$file $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) ./$$(dirname $$file); done; done

lint: $(TOOLS)/golangci-lint $(TOOLS)/buf ## Check formatting, Go and protobuf style
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); test -z "$$unformatted" || { echo "not gofmt'ed:"; echo "$$unformatted"; exit 1; }
	@for m in $(filter-out api,$(MODULES)); do echo "lint $$m"; (cd $$m && $(TOOLS)/golangci-lint run --config $(CURDIR)/.golangci.yml ./...); done
	@# The large form of the trials stands in the place of the quick one, so it has a run of its own.
	@echo "lint test/faults, large"; cd test && $(TOOLS)/golangci-lint run --config $(CURDIR)/.golangci.yml --build-tags faults ./faults
	$(TOOLS)/buf lint
	$(TOOLS)/buf format -d --exit-code >/dev/null

fmt: $(TOOLS)/buf ## Format Go and protobuf
	git ls-files '*.go' | xargs gofmt -w
	$(TOOLS)/buf format -w

proto: $(TOOLS)/buf $(TOOLS)/protoc-gen-go ## Generate Go and OpenAPI from proto/
	@find api -name '*.pb.go' -o -name '*.pb.gw.go' -o -name '*.swagger.json' | xargs rm -f
	$(TOOLS)/buf generate

proto-check: proto ## Fail if what is generated is not what is committed
	@test -z "$$(git status --porcelain -- api)" || { git status --short -- api; echo "generated code is stale: run make proto"; exit 1; }

modules: ## Build every module without the workspace and check that its go.mod is tidy
	@for m in $(MODULES); do echo "module $$m"; (cd $$m && GOWORK=off go build ./... && GOWORK=off go vet ./... && GOWORK=off go mod tidy -diff); done

clean: ## Remove what was built, tried and installed
	rm -rf bin .bin .try

$(TOOLS)/buf:
	GOBIN=$(TOOLS) go install $(BUF)

$(TOOLS)/golangci-lint:
	GOBIN=$(TOOLS) go install $(GOLANGCI_LINT)

$(TOOLS)/protoc-gen-go:
	@for t in $(PROTO_TOOLS); do GOBIN=$(TOOLS) go install $$t; done

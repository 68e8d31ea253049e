# `make` alone explains itself. `go run ./examples/server` and `go test ./...`
# need none of this.

.DEFAULT_GOAL := help
.PHONY: help verify test test-short test-quick lint cover fuzz bench run

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

verify: ## every step that CI runs, cheapest first
	.ci/run

test: ## all tests with -race, the coverage and its bar
	.ci/run tools test

test-short: ## the tests that need neither PostgreSQL nor long waits: half a minute
	go test -short ./...

test-quick: ## all tests, without -race; skips PostgreSQL where it is not installed
	go test -shuffle=on ./...

lint: ## golangci-lint, installed if missing
	.ci/run tools lint

cover: test ## the tests, then their coverage in a browser
	go tool cover -html cover.out

fuzz: ## every fuzz target for a minute; FUZZTIME=10s for less
	FUZZTIME=$${FUZZTIME:-1m} .ci/run fuzz

bench: ## every benchmark, six interleaved passes; docs/benchmarks.md says how to read them
	rm -f bench.txt
	for pass in 1 2 3 4 5 6; do go test -run '^$$' -bench . -benchtime 100ms -benchmem ./... | grep -v 'no test files' | tee -a bench.txt || exit 1; done
	go run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da bench.txt

run: ## the example server on http://127.0.0.1:8080
	go run ./examples/server

// Command bench compares package flags with the flag libraries that a Go gateway
// could use instead, offline and in process. Each is checked for right answers
// before it is timed:
//
//	go run .                      the table of ../docs/benchmarks-flags.md
//	go test -bench . -benchmem    the same as ordinary benchmarks
//
// It is a module of its own, so that nobody who imports flags gets the peers.
package main

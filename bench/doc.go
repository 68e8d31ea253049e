// Command bench compares package flags with the flag libraries that a Go gateway
// could use instead, offline and in process. It checks each library's answers
// before it measures:
//
//	go run .                      the table of ../docs/benchmarks-flags.md
//	go test -bench . -benchmem    the same as ordinary benchmarks
//
// It is a module of its own, so that an importer of flags does not get the other
// libraries.
package main

package session_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain runs the tests, or, where replica_test.go has started this binary
// once more, one replica.
func TestMain(m *testing.M) {
	if config := os.Getenv(replicaEnv); config != "" {
		os.Exit(runReplica(config))
	}
	goleak.VerifyTestMain(m)
}

package rollout_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dsn := os.Getenv("ROLLOUT_TEST_REPLICA"); dsn != "" {
		replica(dsn)
		return
	}
	goleak.VerifyTestMain(m)
}

package pglab_test

import (
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/pglab"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTwoDatabasesAreIsolated(t *testing.T) {
	t.Parallel()
	a, b := pglab.Open(t, pglab.Database(t)), pglab.Open(t, pglab.Database(t))
	if _, err := a.ExecContext(t.Context(), "CREATE TABLE only_in_a (id int)"); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := b.GetContext(t.Context(), &n, "SELECT count(*) FROM pg_tables WHERE tablename = 'only_in_a'"); err != nil {
		t.Fatal(err)
	}
	if n != 0 {
		t.Errorf("a table made in one database shows in the other")
	}
}

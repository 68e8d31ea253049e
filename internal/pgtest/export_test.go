package pgtest

import "testing"

// NeedServer skips or fails a test without PostgreSQL's programs, as Start does.
func NeedServer(t *testing.T) {
	t.Helper()
	_, err := serverBin(binGlobs)
	check(t, err)
}

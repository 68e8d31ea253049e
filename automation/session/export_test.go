package session

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// SetFailpoint has fn called at the named places of the manager's work.
func (o *Options) SetFailpoint(fn func(name string)) { o.failpoint = fn }

// ClaimScript is a claim and a release as a script for pgbench. Each of 32
// clients has users of its own; the verb is the number of the last one's.
var ClaimScript = func() string {
	db := sqldb.New(sqlx.NewDb(nil, "postgres"), sqldb.Options{})
	const setup = `SELECT set_config('statement_timeout', '5000', true), set_config('lock_timeout', '4000', true), set_config('idle_in_transaction_session_timeout', '5000', true)`
	lines := []string{`\set n 1 + :client_id + 32 * random(0, %d)`, `\set t random(1, 1000000000)`}
	for _, s := range []struct {
		query, end string
		args       []string
	}{
		{claimQuery, ` \gset`, []string{"CAST(:t AS text)", "CAST('holder' AS text)", "30", "CAST('user-' || :n AS text)", "CAST('model' AS text)", "30", "CAST('[]' AS text)", "30", "CAST('' AS text)", "0"}},
		{releaseQuery, ";", []string{":id", "CAST(:t AS text)"}},
	} {
		q := strings.ReplaceAll(strings.Join(strings.Fields(db.Expand(s.query)), " "), "%", "%%")
		q = regexp.MustCompile(`\$\d+`).ReplaceAllStringFunc(q, func(p string) string {
			n, err := strconv.Atoi(p[1:])
			if err != nil {
				panic(err)
			}
			return s.args[n-1]
		})
		lines = append(lines, "BEGIN;", setup+";", q+s.end, "COMMIT;")
	}
	return strings.Join(lines, "\n") + "\n"
}()

// Trigger makes the next round of maintenance come at once.
func (m *Manager) Trigger() { m.trigger() }

// Waiting is how many requests wait in this replica.
func (m *Manager) Waiting() (n int) {
	m.queues.mu.Lock()
	defer m.queues.mu.Unlock()
	for _, list := range m.queues.pools {
		for _, q := range list {
			n += len(q.waiters)
		}
	}
	return n
}

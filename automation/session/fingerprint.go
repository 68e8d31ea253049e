package session

import (
	"math/rand/v2"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// An open is recognised on the chain by its length, its fingerprint: some seconds
// more than its user chose, which no other open asks for and nobody types. In
// seconds, a fingerprint leaves the remainder 3 when divided by 5. So a length that
// the chain has rounded equals neither another fingerprint nor a round number.
const (
	fingerprintStep = 5
	fingerprintRest = 3
	roundedDown     = 2 * time.Second // the most that the chain shortens a length by rounding: 4200 s were measured as 4199
	roundedUp       = time.Second     // the most that it lengthens one
)

// fingerprints returns up to n lengths in seconds for a session of that duration, the
// closest first. They are longer than the duration, unless that exceeds the ceiling, to
// which the chain shortens sessions silently; then they count down from the ceiling. A
// ceiling of zero means none.
func fingerprints(duration, ceiling time.Duration, n int) []int64 {
	first := int64(duration/time.Second) + 1
	first += (fingerprintRest - first%fingerprintStep + fingerprintStep) % fingerprintStep
	step := int64(fingerprintStep)
	if longest := int64(ceiling / time.Second); longest > 0 && first+step*int64(n) > longest {
		first, step = longest-(longest-fingerprintRest)%fingerprintStep, -step
	}
	list := make([]int64, 0, n)
	for f := first; len(list) < n && f > 0; f += step {
		list = append(list, f)
	}
	return list
}

// hasFingerprint reports whether an open of that model, length and call time has opened
// the session on the chain.
func hasFingerprint(c ChainSession, model string, asked time.Duration, called time.Time) bool {
	length := c.EndsAt.Sub(c.OpenedAt)
	return strings.EqualFold(c.ModelID, model) && !c.OpenedAt.Before(called.Add(-clockSkew)) &&
		length >= asked-roundedDown && length <= asked+roundedUp
}

// askedLength returns the length that the row's open asked the node for. Rows from before
// there were fingerprints asked for what their user chose.
func (r *row) askedLength() time.Duration {
	if r.Fingerprint.Valid {
		return time.Duration(r.Fingerprint.Int64) * time.Second
	}
	return r.chosen()
}

// freeFingerprints returns lengths that no unresolved open has. It returns some more than
// wanted if there are enough, in random order, because several replicas may choose at the
// same time.
func freeFingerprints(tx *sqldb.Tx, duration, ceiling time.Duration, wanted int) ([]int64, error) {
	const spare = 4
	for n := 8; ; n *= 4 {
		list := fingerprints(duration, ceiling, n)
		if len(list) == 0 {
			return nil, nil
		}
		var taken []int64
		if err := tx.Select(&taken, `SELECT fingerprint FROM automation_sessions
			WHERE state IN ('`+stateOpening+`', '`+stateUnknown+`', '`+stateLost+`') AND fingerprint BETWEEN $1 AND $2`,
			min(list[0], list[len(list)-1]), max(list[0], list[len(list)-1])); err != nil {
			return nil, err
		}
		used := make(map[int64]bool, len(taken))
		for _, f := range taken {
			used[f] = true
		}
		free := list[:0]
		for _, f := range list {
			if !used[f] {
				free = append(free, f)
			}
		}
		if len(free) >= wanted+spare || n >= 2048 || len(list) < n {
			rand.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] }) //nolint:gosec // no secret: it only spreads replicas
			return free, nil
		}
	}
}

package session

import (
	"math/rand/v2"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// An open is recognised on the chain by its length: a little more than its user
// chose, by seconds that no other open asks for and nobody types. Lengths are
// three more than a multiple of five, and five apart, so that what the chain
// rounds meets neither another's length nor a round number.
const (
	fingerprintStep = 5
	fingerprintRest = 3
	roundedDown     = 2 * time.Second // 4200 s were measured as 4199
	roundedUp       = time.Second
)

// fingerprints returns n lengths in seconds for a session of that duration, the
// closest first. They are longer, unless that is above the ceiling, to which the
// chain shortens without a word; zero is no ceiling.
func fingerprints(duration, ceiling time.Duration, n int) []int64 {
	first := int64(duration/time.Second) + 1
	first += (fingerprintRest - first%fingerprintStep + fingerprintStep) % fingerprintStep
	step := int64(fingerprintStep)
	if most := int64(ceiling / time.Second); most > 0 && first+step*int64(n) > most {
		first, step = most-(most-fingerprintRest)%fingerprintStep, -step
	}
	list := make([]int64, 0, n)
	for f := first; len(list) < n && f > 0; f += step {
		list = append(list, f)
	}
	return list
}

// hasFingerprint reports whether a session on the chain is what an open of that
// model, length and time has opened.
func hasFingerprint(c ChainSession, model string, asked time.Duration, called time.Time) bool {
	length := c.EndsAt.Sub(c.OpenedAt)
	return strings.EqualFold(c.ModelID, model) && !c.OpenedAt.Before(called.Add(-clockSkew)) &&
		length >= asked-roundedDown && length <= asked+roundedUp
}

// asked is how long the session was to last that the row's open asked for. Rows
// of before there were fingerprints asked for what their user chose.
func (r *row) asked() time.Duration {
	if r.Fingerprint.Valid {
		return time.Duration(r.Fingerprint.Int64) * time.Second
	}
	return r.chosen()
}

// freeFingerprints returns lengths that no open of unknown outcome has, at least
// as many as wanted, in random order: replicas choose at the same time.
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

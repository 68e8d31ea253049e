package session

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// failingUsers is for how many users a provider must have failed lately before
// it is avoided for all. A single user's failures concern that user alone.
const failingUsers = 3

// avoidance is for how long a provider's failure counts.
const avoidance = 5 * time.Minute

// providers is what this replica knows of failing providers.
type providers struct {
	mu      sync.Mutex
	forAll  []string            // those that failed for several users, the worst first
	forUser map[string][]string // by user
	seq     int                 // counts what follows
	applied int                 // when the reading began that was applied last
	// added has the failures of this replica's users that were written since then,
	// and when. A reading that began before does not have them.
	added map[providerFailure]int
}

// avoided returns the providers to be avoided for a user, who may be empty.
func (p *providers) avoided(userID string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Concat(p.forAll, p.forUser[userID])
}

// known reports whether any failure is known here, which must be forgotten in time.
func (p *providers) known() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.forUser) > 0
}

// worst returns the provider that has lately failed for most users, or "".
func (p *providers) worst() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.forAll) == 0 {
		return ""
	}
	return p.forAll[0]
}

// add notes a failure before the database is read again.
func (p *providers) add(provider, userID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	f := providerFailure{Provider: provider, UserID: userID}
	if p.added == nil {
		p.added = map[providerFailure]int{}
	}
	p.added[f] = p.seq
	p.note(f)
}

// note makes a user avoid a provider. The caller holds the lock.
func (p *providers) note(f providerFailure) {
	if p.forUser == nil {
		p.forUser = map[string][]string{}
	}
	if !slices.Contains(p.forUser[f.UserID], f.Provider) {
		p.forUser[f.UserID] = append(p.forUser[f.UserID], f.Provider)
	}
}

// beginRead returns when a reading of the failures begins, for set.
func (p *providers) beginRead() (at int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	return p.seq
}

// set replaces what was known when the reading began, unless a later one was
// faster, and reports whether other providers than before are avoided for all.
func (p *providers) set(failures []providerFailure, begun int) (changed bool) {
	forUser, users := map[string][]string{}, map[string]int{}
	for _, f := range failures {
		forUser[f.UserID] = append(forUser[f.UserID], f.Provider)
		users[f.Provider]++
	}
	var forAll []string
	for provider, n := range users {
		if n >= failingUsers {
			forAll = append(forAll, provider)
		}
	}
	slices.SortFunc(forAll, func(a, b string) int {
		if users[a] != users[b] {
			return users[b] - users[a]
		}
		if a < b {
			return -1
		}
		return 1
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if begun < p.applied {
		return false
	}
	changed = !slices.Equal(p.forAll, forAll)
	p.forAll, p.forUser, p.applied = forAll, forUser, begun
	maps.DeleteFunc(p.added, func(_ providerFailure, at int) bool { return at < begun })
	for f := range p.added {
		p.note(f)
	}
	return changed
}

// readProviders learns what all replicas know of failing providers.
func (m *Manager) readProviders(ctx context.Context) error {
	begun := m.providers.beginRead()
	list, err := m.store.providerFailures(ctx)
	if err != nil {
		return err
	}
	if m.providers.set(list, begun) {
		m.opts.Logger.Info("providers that failed for several users are avoided", "providers", m.providers.avoided(""))
	}
	return nil
}

type providerFailure struct {
	Provider string `db:"provider"`
	UserID   string `db:"user_id"`
}

// maxFailures bounds what a replica reads of them at a time, the newest first.
const maxFailures = 10_000

// providerFailures lists the failures that count.
func (s *store) providerFailures(ctx context.Context) ([]providerFailure, error) {
	return sqldb.Read(ctx, s.db, "sessions.provider_failures", func(tx *sqldb.Tx) (list []providerFailure, err error) {
		err = tx.Select(&list, `SELECT provider, user_id FROM automation_provider_failures WHERE failed_at > {in -$1} ORDER BY failed_at DESC LIMIT $2`,
			avoidance.Seconds(), maxFailures)
		return list, err
	})
}

// providerFailed notes that a provider has failed for a user.
func (s *store) providerFailed(ctx context.Context, provider, userID string) error {
	return s.exec(ctx, "sessions.provider_failed", `INSERT INTO automation_provider_failures (provider, user_id, failed_at) VALUES ($1, $2, {now})
		ON CONFLICT (provider, user_id) DO UPDATE SET failed_at = excluded.failed_at`, provider, userID)
}

package session

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// failingUsers is the number of users for whom a provider must have failed before
// it is avoided for all users. With fewer, it is avoided for these users alone.
const failingUsers = 3

// avoidance is how long a provider's failure counts.
const avoidance = 5 * time.Minute

// providers is what this replica knows of failing providers.
type providers struct {
	mu      sync.Mutex
	forAll  []string            // providers to avoid for all users, the one that failed for most users first
	forUser map[string][]string // providers that failed for a user, by user
	seq     int                 // incremented by each add and beginRead
	applied int                 // the seq of the read whose result was applied last
	// added are failures in this replica, each with its seq. A read with a smaller
	// seq may not contain them.
	added map[providerFailure]int
}

// avoided returns the providers to avoid for a user. For user "" it returns those to
// avoid for all users.
func (p *providers) avoided(userID string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Concat(p.forAll, p.forUser[userID])
}

// hasFailures reports whether this replica knows of a failure. While it does, it
// reads the database again, so that the failure is forgotten when it counts no more.
func (p *providers) hasFailures() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.forUser) > 0
}

// worst returns the provider, among those to avoid for all users, that failed for
// most of them, or "" if there is none.
func (p *providers) worst() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.forAll) == 0 {
		return ""
	}
	return p.forAll[0]
}

// add records a failure at once, so that it counts before the next read.
func (p *providers) add(provider, userID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	f := providerFailure{Provider: provider, UserID: userID}
	if p.added == nil {
		p.added = map[providerFailure]int{}
	}
	p.added[f] = p.seq
	p.avoid(f)
}

// avoid makes a user avoid a provider. The caller holds the lock.
func (p *providers) avoid(f providerFailure) {
	if p.forUser == nil {
		p.forUser = map[string][]string{}
	}
	if !slices.Contains(p.forUser[f.UserID], f.Provider) {
		p.forUser[f.UserID] = append(p.forUser[f.UserID], f.Provider)
	}
}

// beginRead returns the seq of a read of the failures that is about to begin, for set.
func (p *providers) beginRead() (seq int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	return p.seq
}

// set applies the result of a read. It keeps the failures that were added since the
// read began, and does nothing if a later read was applied already. It reports whether
// the providers to avoid for all users have changed.
func (p *providers) set(failures []providerFailure, seq int) (changed bool) {
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
		return cmp.Or(cmp.Compare(users[b], users[a]), cmp.Compare(a, b))
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if seq < p.applied {
		return false
	}
	changed = !slices.Equal(p.forAll, forAll)
	p.forAll, p.forUser, p.applied = forAll, forUser, seq
	maps.DeleteFunc(p.added, func(_ providerFailure, at int) bool { return at < seq })
	for f := range p.added {
		p.avoid(f)
	}
	return changed
}

// readProviders reads the failures of providers that all replicas have recorded.
func (m *Manager) readProviders(ctx context.Context) error {
	seq := m.providers.beginRead()
	list, err := m.store.providerFailures(ctx)
	if err != nil {
		return err
	}
	if m.providers.set(list, seq) {
		m.opts.Logger.Info("the providers to avoid for all users have changed", "providers", m.providers.avoided(""))
	}
	return nil
}

// providerFailure says that a provider has failed for a user.
type providerFailure struct {
	Provider string `db:"provider"`
	UserID   string `db:"user_id"`
}

// maxFailures is how many failures a replica reads at most, the newest first.
const maxFailures = 10_000

// providerFailures lists the failures within the last avoidance.
func (s *store) providerFailures(ctx context.Context) ([]providerFailure, error) {
	return sqldb.Read(ctx, s.db, "sessions.provider_failures", func(tx *sqldb.Tx) (list []providerFailure, err error) {
		err = tx.Select(&list, `SELECT provider, user_id FROM automation_provider_failures WHERE failed_at > {in -$1} ORDER BY failed_at DESC LIMIT $2`,
			avoidance.Seconds(), maxFailures)
		return list, err
	})
}

// providerFailed records that a provider has failed for a user.
func (s *store) providerFailed(ctx context.Context, provider, userID string) error {
	return s.exec(ctx, "sessions.provider_failed", `INSERT INTO automation_provider_failures (provider, user_id, failed_at) VALUES ($1, $2, {now})
		ON CONFLICT (provider, user_id) DO UPDATE SET failed_at = excluded.failed_at`, provider, userID)
}

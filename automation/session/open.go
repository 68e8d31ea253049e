package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// clockSkew is how far the clocks of the chain and the database may be apart when an
// intent is looked for among the wallet's sessions.
const clockSkew = 2 * time.Minute

// opener is for whom intents are carried out: a queue, or a single open.
type opener interface {
	// addIntent counts an intent that has been written.
	addIntent()
	// needsCall reports whether another open is still needed.
	needsCall(ctx context.Context) bool
	// beginCall is called immediately before the node. It returns nil if the call
	// is not needed any more. Otherwise it returns a function to be called when
	// the call ends, with an error if certainly nothing was opened.
	beginCall(ctx context.Context) func(error)
	// dropIntent ends an intent for which the node was not called.
	dropIntent(err error)
}

// soloOpen is the opener of a single open that no queue waits for.
type soloOpen struct {
	needed func(ctx context.Context) bool
	called atomic.Bool
	result chan error // receives the error of the open or nil; is nil if nobody waits for it
}

func (o *soloOpen) addIntent() {}

func (o *soloOpen) needsCall(ctx context.Context) bool { return o.needed(ctx) }

func (o *soloOpen) beginCall(ctx context.Context) func(error) {
	if !o.needed(ctx) {
		return nil
	}
	o.called.Store(true)
	return func(err error) {
		if err != nil {
			o.called.Store(false)
		}
		o.dropIntent(err)
	}
}

func (o *soloOpen) dropIntent(err error) {
	if o.result != nil {
		o.result <- err
	}
}

// openAll starts to carry out intents that a statement sent at sentAt has written.
func (m *Manager) openAll(r reserveRequest, intents []intent, sentAt time.Time, by opener) {
	for range intents {
		by.addIntent()
	}
	for i, in := range intents {
		started := m.background(func(ctx context.Context) {
			ctx, cancel := context.WithCancelCause(ctx)
			defer cancel(nil)
			m.leases.add(in.lease, sentAt, cancel)
			defer m.leases.drop(in.lease)
			m.open(ctx, r, in, by)
			m.queues.wake(r.pool, nil)
		})
		if started {
			continue
		}
		// Run is ending, so the opens are not needed any more. The node was not asked.
		ctx, cancel := m.detached(context.Background())
		defer cancel()
		r.ids = nil
		for _, rest := range intents[i:] {
			r.ids = append(r.ids, rest.lease)
			by.dropIntent(ErrNotRunning)
		}
		if err := m.store.undo(ctx, r); err != nil {
			m.opts.Logger.Warn("intents not undone, their leases will end", "error", err)
		}
		return
	}
}

// errNotNeeded ends an intent that is not needed any more.
var errNotNeeded = errors.New("no request waits for the open any more")

// open carries out one intent: it waits for the wallet, calls the node and writes the
// outcome.
func (m *Manager) open(ctx context.Context, r reserveRequest, in intent, by opener) {
	log := m.opts.Logger.With("intent", in.id, "model_id", r.model)
	begun := m.opts.Now()
	observe := func(result string) {
		m.opts.Observe(Event{Kind: Opened, Cause: r.purpose, Result: result, Took: m.opts.Now().Sub(begun), Asked: r.duration})
	}
	called, err := m.beginCall(ctx, in.lease, false, by.needsCall)
	var end func(error)
	if err == nil {
		m.opts.failpoint("before-call")
		if end = by.beginCall(ctx); end == nil {
			err = errNotNeeded
		}
	}
	switch {
	case errors.Is(err, errNotNeeded):
		m.write(ctx, "fail", func(ctx context.Context) error { return m.store.fail(ctx, in.lease, reasonNotNeeded, err.Error()) })
		observe("not_needed")
		by.dropIntent(nil)
		return
	case err != nil:
		m.write(ctx, "fail", func(ctx context.Context) error { return m.store.fail(ctx, in.lease, reasonNotAsked, errorText(err)) })
		observe("abandoned")
		by.dropIntent(err)
		return
	}
	req := OpenRequest{ModelID: r.model, Duration: in.length, OmitProvider: m.omission(r)}
	id, err := m.call(ctx, req)
	if errors.Is(err, ErrNotOpened) && req.OmitProvider != r.omitProvider {
		// Nothing was opened, and the provider to avoid may be the only one.
		req.OmitProvider = r.omitProvider
		id, err = m.call(ctx, req)
	}
	if errors.Is(err, ErrWalletCollision) {
		log.Warn("wallet collision, opening once more without other calls", "error", err)
		m.opts.Observe(Event{Kind: Collided})
		m.write(ctx, "collided", func(ctx context.Context) error { return m.store.collided(ctx, in.lease) })
		id, err = m.openExclusively(ctx, r, in, req, called)
	}
	m.opts.failpoint("after-open")
	switch {
	case err == nil:
		m.opens.observe(m.opts.Now().Sub(begun))
		m.complete(ctx, in.lease, req, m.readEnd(ctx, id, in.length, called))
		log.Info("session opened", "session_id", id)
		observe("opened")
		end(nil)
	case errors.Is(err, ErrNotOpened), errors.Is(err, ErrUnavailable):
		log.Warn("session not opened", "error", err)
		m.write(ctx, "fail", func(ctx context.Context) error { return m.store.fail(ctx, in.lease, reasonRefused, errorText(err)) })
		if errors.Is(err, ErrUnavailable) {
			observe("node")
		} else {
			observe("refused")
		}
		end(err)
	default:
		log.Warn("outcome of an open is unknown, looking for it among the wallet's sessions", "error", err)
		m.write(ctx, "mark_unknown", func(ctx context.Context) error { return m.store.markUnknown(ctx, in.lease, errorText(err)) })
		m.trigger()
		observe("unknown")
		end(nil)
	}
}

// omission returns the provider that the node must omit: the one that the request omits,
// or else the one that has lately failed for most users.
func (m *Manager) omission(r reserveRequest) string {
	if r.omitProvider != "" || m.ignoresOmission() {
		return r.omitProvider
	}
	return m.providers.worst()
}

// openExclusively calls the node once more after a collision, without other calls of the
// wallet. Before, it looks for a session that the first call may have opened, by the
// length of the intent. A second collision leaves the outcome unknown: the chain may
// answer "already known" to a transaction that it has taken.
func (m *Manager) openExclusively(ctx context.Context, r reserveRequest, in intent, req OpenRequest, called time.Time) (string, error) {
	if err := retry.Sleep(ctx, retry.Jitter(350*time.Millisecond)); err != nil {
		return "", err
	}
	if _, err := m.beginCall(ctx, in.lease, true, nil); err != nil {
		return "", fmt.Errorf("after a collision: %w", err)
	}
	found, err := m.orphans(ctx, called)
	if err != nil {
		// The first call may have opened a session, and the node cannot be asked.
		return "", fmt.Errorf("after a collision: %s", err) //nolint:errorlint // wrapped, it would say what the first call has opened
	}
	if i := slices.IndexFunc(found, func(c ChainSession) bool { return hasFingerprint(c, r.model, in.length, called) }); i >= 0 {
		return found[i].ID, nil
	}
	id, err := m.call(ctx, req)
	if err != nil && !errors.Is(err, ErrWalletCollision) {
		// Certain for this call only: the first call's transaction may be pending.
		return "", fmt.Errorf("after a collision: %s", err) //nolint:errorlint // as above
	}
	return id, err
}

// call calls the node to open a session. This is the call that costs money.
func (m *Manager) call(ctx context.Context, req OpenRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, m.opts.OpenTimeout)
	defer cancel()
	begun := m.opts.Now()
	id, err := m.provider.OpenSession(ctx, req)
	if err == nil {
		m.calls.observe(m.opts.Now().Sub(begun))
	}
	return canonicalID(id), err
}

// canonicalID returns a session's id in the form of the rows. It returns an id that it
// cannot parse as it is.
func canonicalID(id string) string {
	if parsed, err := ParseID(id); err == nil {
		return parsed.String()
	}
	return id
}

// beginCall waits until the intent may call the node, for OpenTimeout at most. It returns
// when the call began. Only one intent of a replica asks the database at a time.
func (m *Manager) beginCall(ctx context.Context, in lease, exclusive bool, needed func(context.Context) bool) (time.Time, error) {
	limited, cancel := context.WithTimeout(ctx, m.opts.OpenTimeout)
	defer cancel()
	occupied := fmt.Errorf("%w: other calls use the wallet", ErrOpening)
	if m.wallet.acquire(limited) != nil {
		return time.Time{}, cmp.Or(context.Cause(ctx), occupied)
	}
	defer m.wallet.release()
	for reason := occupied; ; {
		if needed != nil && !needed(limited) {
			return time.Time{}, errNotNeeded
		}
		called, err := m.store.beginCall(limited, in, exclusive, m.typicalCall())
		switch {
		case err == nil && !called.IsZero():
			return called, nil
		case errors.Is(err, ErrLeaseLost):
			return called, err
		case err == nil:
			reason = occupied
		case limited.Err() == nil:
			m.opts.Logger.Warn("an open cannot ask the database whether it may begin, trying again", "intent", in.id, "error", err)
			reason = err
		}
		if retry.Sleep(limited, retry.Jitter(50*time.Millisecond)) != nil {
			return time.Time{}, cmp.Or(context.Cause(ctx), reason)
		}
	}
}

// readTimeout bounds a read from the node.
const readTimeout = 10 * time.Second

// readEnd reads an opened session from the chain, with its real end. If that fails, it
// estimates the end from the time of the call.
func (m *Manager) readEnd(ctx context.Context, id string, length time.Duration, called time.Time) ChainSession {
	c, err := m.get(context.WithoutCancel(ctx), id)
	if err != nil || c.EndsAt.IsZero() {
		m.opts.Logger.Warn("session not read from the chain, its end is estimated", "session_id", id, "error", err)
		c = ChainSession{OpenedAt: called, EndsAt: called.Add(length)}
	}
	c.ID = id
	return c
}

// get reads a session from the chain, with its ids in canonical form.
func (m *Manager) get(ctx context.Context, id string) (ChainSession, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	c, err := m.provider.GetSession(ctx, id)
	c.ID, c.Provider = canonicalID(c.ID), strings.ToLower(c.Provider)
	return c, err
}

// complete writes an opened session into its intent's row, or into a row of its own.
func (m *Manager) complete(ctx context.Context, in lease, asked OpenRequest, c ChainSession) {
	m.opts.failpoint("before-complete")
	serves := m.compare(asked, c)
	var took bool
	written := m.write(ctx, "complete", func(ctx context.Context) (err error) {
		took, err = m.store.complete(ctx, in, c, serves, m.opts.CloseAfter)
		return err
	})
	if written && !took {
		// The reconciler was faster, and has adopted this session or another one.
		m.write(ctx, "complete", func(ctx context.Context) error {
			return m.store.insertOrphan(ctx, in.id+"-2", in, c, m.opts.CloseAfter)
		})
	}
}

// write repeats an idempotent write until it succeeds, for at most a lease. It reports
// whether it has succeeded. If not, the reconciler finds out what was opened.
func (m *Manager) write(ctx context.Context, name string, fn func(context.Context) error) (written bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.opts.Lease)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := fn(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			m.opts.Logger.Error("session's row not written, left to the reconciler", "write", name, "error", err)
			return false
		}
		_ = retry.Sleep(ctx, retry.Jitter(pause))
	}
}

// errorText returns the text of an error as it is stored: of limited length, and valid for
// PostgreSQL.
func errorText(err error) string { return text.Truncate(err.Error(), 500) }

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

// clockSkew is how far the chain's clock and the database's may be apart when
// an intent is looked for among the wallet's sessions.
const clockSkew = 2 * time.Minute

// opener is on whose behalf intents are carried out.
type opener interface {
	addIntent()
	// needsCall reports whether anybody still needs another open.
	needsCall(ctx context.Context) bool
	// beginCall is called immediately before the node is. It returns nil where
	// nobody needs the call any more, and otherwise what to call at its end,
	// with an error where certainly nothing was opened.
	beginCall(ctx context.Context) func(error)
	// dropIntent ends an intent for which the node was not called.
	dropIntent(err error)
}

// soloOpen is the opener of one open that no queue waits for.
type soloOpen struct {
	needed func(ctx context.Context) bool
	called atomic.Bool
	result chan error // gets what came of it; nil, where nobody looks
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

// openAll starts the opens of intents that have just been written.
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
		// Run is ending, so nobody waits for them, and nothing was asked of the node.
		ctx, cancel := m.detached(context.Background())
		defer cancel()
		r.ids = nil
		for _, left := range intents[i:] {
			r.ids = append(r.ids, left.lease)
			by.dropIntent(ErrNotRunning)
		}
		if err := m.store.undo(ctx, r); err != nil {
			m.opts.Logger.Warn("intents not taken back, their leases will end", "error", err)
		}
		return
	}
}

// errNotNeeded ends an intent for which nobody waits any more.
var errNotNeeded = errors.New("nobody waits for it any more")

// open carries out one intent.
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
		// Nothing was sent, and the provider to be avoided may be the only one.
		req.OmitProvider = r.omitProvider
		id, err = m.call(ctx, req)
	}
	if errors.Is(err, ErrWalletCollision) {
		log.Warn("wallet collision, opening once more, alone", "error", err)
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

// omission is the provider that the node is told to omit: the one that the
// request does not want, or else the one that has lately failed for most users.
func (m *Manager) omission(r reserveRequest) string {
	if r.omitProvider != "" || m.ignoresOmission() {
		return r.omitProvider
	}
	return m.providers.worst()
}

// openExclusively asks once more after a collision, alone. What the first call
// may have opened has the length of this intent and is looked for before.
// A second collision leaves the outcome unknown: "already known" is no refusal.
func (m *Manager) openExclusively(ctx context.Context, r reserveRequest, in intent, req OpenRequest, called time.Time) (string, error) {
	if err := retry.Sleep(ctx, retry.Jitter(350*time.Millisecond)); err != nil {
		return "", err
	}
	if _, err := m.beginCall(ctx, in.lease, true, nil); err != nil {
		return "", fmt.Errorf("after a collision: %w", err)
	}
	found, err := m.orphans(ctx, called)
	if err != nil {
		// The first call may have opened one, and the node cannot be asked.
		return "", fmt.Errorf("after a collision: %s", err) //nolint:errorlint // its sentinels are about another call
	}
	if i := slices.IndexFunc(found, func(c ChainSession) bool { return hasFingerprint(c, r.model, in.length, called) }); i >= 0 {
		return found[i].ID, nil
	}
	id, err := m.call(ctx, req)
	if errors.Is(err, ErrUnavailable) {
		return "", fmt.Errorf("after a collision: %s", err) //nolint:errorlint // as above
	}
	return id, err
}

// call is the call that costs money.
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

// canonicalID is a session's id as the rows have it.
func canonicalID(id string) string {
	if parsed, err := ParseID(id); err == nil {
		return parsed.String()
	}
	return id
}

// beginCall waits until the intent may call the node, for OpenTimeout at most.
// Who waits holds up only those of this replica that wait for the same.
func (m *Manager) beginCall(ctx context.Context, in lease, exclusive bool, needed func(context.Context) bool) (time.Time, error) {
	limited, cancel := context.WithTimeout(ctx, m.opts.OpenTimeout)
	defer cancel()
	occupied := fmt.Errorf("%w: others use the wallet", ErrOpening)
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
			m.opts.Logger.Warn("an open waits for the database", "intent", in.id, "error", err)
			reason = err
		}
		if retry.Sleep(limited, retry.Jitter(50*time.Millisecond)) != nil {
			return time.Time{}, cmp.Or(context.Cause(ctx), reason)
		}
	}
}

// readTimeout bounds a question to the node while a request waits for it.
const readTimeout = 10 * time.Second

// readEnd asks the chain for a session's real end; the estimate serves where it
// does not answer.
func (m *Manager) readEnd(ctx context.Context, id string, length time.Duration, called time.Time) ChainSession {
	c, err := m.get(context.WithoutCancel(ctx), id)
	if err != nil || c.EndsAt.IsZero() {
		m.opts.Logger.Warn("session's end not read from the chain, estimated", "session_id", id, "error", err)
		c = ChainSession{OpenedAt: called, EndsAt: called.Add(length)}
	}
	c.ID = id
	return c
}

func (m *Manager) get(ctx context.Context, id string) (ChainSession, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	c, err := m.provider.GetSession(ctx, id)
	c.ID, c.Provider = canonicalID(c.ID), strings.ToLower(c.Provider)
	return c, err
}

// complete puts an opened session into its row, or into one of its own.
func (m *Manager) complete(ctx context.Context, in lease, asked OpenRequest, c ChainSession) {
	m.opts.failpoint("before-complete")
	serves := m.compare(asked, c)
	var took bool
	written := m.write(ctx, "complete", func(ctx context.Context) (err error) {
		took, err = m.store.complete(ctx, in, c, serves, m.opts.CloseAfter)
		return err
	})
	if written && !took {
		// A reconciler was faster, and has found this session or another one.
		m.write(ctx, "complete", func(ctx context.Context) error {
			return m.store.insertOrphan(ctx, in.id+"-2", in, c, m.opts.CloseAfter)
		})
	}
}

// write repeats a write that may be repeated until it is done, for at most a
// lease. What is not written then, the reconciler finds out.
func (m *Manager) write(ctx context.Context, what string, fn func(context.Context) error) (written bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.opts.Lease)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := fn(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			m.opts.Logger.Error("session's row not written, left to the reconciler", "what", what, "error", err)
			return false
		}
		_ = retry.Sleep(ctx, retry.Jitter(pause))
	}
}

// errorText is an error as it is stored: bounded, and what PostgreSQL takes.
func errorText(err error) string { return text.Truncate(err.Error(), 500) }

package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// collisionWindow is for how long after a collision, sliding, the wallet's
// transactions go one at a time (facts: 20 s).
const collisionWindow = 20 * time.Second

// skew is how far the chain's clock and the database's may be apart when an
// intent is looked for among the wallet's sessions.
const skew = 2 * time.Minute

// openAll starts the opens of intents that have just been written.
func (m *Manager) openAll(o reserveRequest, asked time.Time, l *waitQueue) {
	for i, in := range o.opens {
		if l != nil {
			l.begin()
		}
		started := m.background(func(ctx context.Context) {
			ctx, cancel := context.WithCancelCause(ctx)
			defer cancel(nil)
			m.leases.add(in, asked, cancel)
			defer m.leases.drop(in)
			err := m.open(ctx, o, in)
			if l != nil {
				l.ended(err)
			}
			m.queues.wake(o.pool, nil)
		})
		if started {
			continue
		}
		// Run is ending, so nobody waits for them, and nothing was asked of the node.
		ctx, cancel := detached(context.Background())
		defer cancel()
		o.opens = o.opens[i:]
		if err := m.store.undo(ctx, o); err != nil {
			m.opts.Logger.Warn("intents not taken back, their leases will end", "error", err)
		}
		if l != nil {
			l.ended(ErrNotRunning)
		}
		return
	}
}

// open carries out one intent. Its error says that certainly nothing was
// opened; an outcome of unknown outcome is nil, and the reconciler's.
func (m *Manager) open(ctx context.Context, o reserveRequest, in lease) error {
	log := m.opts.Logger.With("intent", in.id, "model_id", o.model)
	begun := m.opts.Now()
	ended := func(result string) {
		m.opts.Observe(Event{Kind: Opened, Cause: o.cause(), Result: result, Took: m.opts.Now().Sub(begun), Asked: o.duration})
	}
	called, err := m.beginCall(ctx, in, false)
	if err != nil {
		m.write(ctx, "fail", func(ctx context.Context) error { return m.store.fail(ctx, in, reasonNotAsked, errorText(err)) })
		ended("abandoned")
		return err
	}
	ask := OpenRequest{ModelID: o.model, Duration: o.duration, OmitProvider: o.omit}
	id, err := m.ask(ctx, ask)
	if errors.Is(err, ErrWalletCollision) {
		log.Warn("wallet collision, opening once more, alone", "error", err)
		m.opts.Observe(Event{Kind: Collided})
		m.write(ctx, "collided", func(ctx context.Context) error { return m.store.collided(ctx, in, collisionWindow) })
		id, err = m.openExclusively(ctx, o, in, ask, called)
	}
	m.opts.failpoint("after-open")
	switch {
	case err == nil:
		m.complete(ctx, in, m.read(ctx, id, o, called))
		log.Info("session opened", "session_id", id)
		ended("opened")
		return nil
	case errors.Is(err, ErrNotOpened), errors.Is(err, ErrUnavailable):
		log.Warn("session not opened", "error", err)
		m.write(ctx, "fail", func(ctx context.Context) error { return m.store.fail(ctx, in, reasonRefused, errorText(err)) })
		if errors.Is(err, ErrUnavailable) {
			ended("node")
		} else {
			ended("refused")
		}
		return err
	default:
		log.Warn("outcome of an open is unknown, looking for it among the wallet's sessions", "error", err)
		m.write(ctx, "mark_unknown", func(ctx context.Context) error { return m.store.markUnknown(ctx, in, errorText(err)) })
		m.trigger()
		ended("unknown")
		return nil
	}
}

// openExclusively asks once more after a collision. When it is alone, every session
// that a call before it opened is in a row, but for those of unknown outcome; so an
// orphan of the right kind is what the first call opened, or does as well.
// A second collision leaves the outcome unknown: "already known" is no refusal.
func (m *Manager) openExclusively(ctx context.Context, o reserveRequest, in lease, ask OpenRequest, called time.Time) (string, error) {
	if err := retry.Sleep(ctx, retry.Jitter(350*time.Millisecond)); err != nil {
		return "", err
	}
	if _, err := m.beginCall(ctx, in, true); err != nil {
		return "", fmt.Errorf("after a collision: %w", err)
	}
	found, err := m.orphans(ctx, called)
	if err != nil {
		// The first call may have opened one, and the node cannot be asked.
		return "", fmt.Errorf("after a collision: %s", err) //nolint:errorlint // its sentinels are about another call
	}
	if i := bestMatch(found, o.model, o.duration, called, false); i >= 0 {
		return found[i].ID, nil
	}
	id, err := m.ask(ctx, ask)
	if errors.Is(err, ErrUnavailable) {
		return "", fmt.Errorf("after a collision: %s", err) //nolint:errorlint // as above
	}
	return id, err
}

// ask is the call that costs money.
func (m *Manager) ask(ctx context.Context, req OpenRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, m.opts.OpenTimeout)
	defer cancel()
	return m.provider.OpenSession(ctx, req)
}

// beginCall waits until the intent may call the node, for OpenTimeout at most.
func (m *Manager) beginCall(ctx context.Context, in lease, alone bool) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, m.opts.OpenTimeout)
	defer cancel()
	if err := m.wallet.take(ctx); err != nil {
		return time.Time{}, err
	}
	defer m.wallet.give()
	for {
		called, err := m.store.beginCall(ctx, in, alone, collisionWindow)
		switch {
		case err == nil && !called.IsZero():
			return called, nil
		case errors.Is(err, ErrLeaseLost):
			return called, err
		case err != nil:
			m.opts.Logger.Warn("an open waits for the database", "intent", in.id, "error", err)
		}
		if err := retry.Sleep(ctx, retry.Jitter(50*time.Millisecond)); err != nil {
			return time.Time{}, err
		}
	}
}

// readTimeout bounds a question to the node while a request waits for it.
const readTimeout = 10 * time.Second

// read asks the chain for a session's real end; the estimate serves where it
// does not answer.
func (m *Manager) read(ctx context.Context, id string, o reserveRequest, called time.Time) ChainSession {
	c, err := m.get(context.WithoutCancel(ctx), id)
	if err != nil || c.EndsAt.IsZero() {
		m.opts.Logger.Warn("session's end not read from the chain, estimated", "session_id", id, "error", err)
		c = ChainSession{OpenedAt: called, EndsAt: called.Add(o.duration)}
	}
	c.ID = id
	return c
}

func (m *Manager) get(ctx context.Context, id string) (ChainSession, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return m.provider.GetSession(ctx, id)
}

// complete puts an opened session into its row, or into one of its own.
func (m *Manager) complete(ctx context.Context, in lease, c ChainSession) {
	m.opts.failpoint("before-complete")
	var took, known bool
	written := m.write(ctx, "complete", func(ctx context.Context) (err error) {
		took, err = m.store.complete(ctx, in, c, m.opts.CloseAfter)
		return err
	})
	if took || !written {
		return
	}
	// The row has another session by now, or another row has this session: a
	// reconciler was faster. It must have taken the one for the other, so what
	// it looked for is still to be found.
	m.write(ctx, "complete", func(ctx context.Context) error {
		ids, err := m.store.known(ctx, []string{c.ID})
		known = ids[c.ID]
		switch {
		case err != nil:
			return err
		case known:
			return m.store.markUnknown(ctx, in, "another row has the session")
		}
		return m.store.insertOrphan(ctx, in.id+"-2", in, c, m.opts.CloseAfter)
	})
	if known {
		m.trigger()
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

// errNode marks the errors of the node where the database has its own.
var errNode = errors.New("the node does not list the wallet's sessions")

// orphans are the wallet's sessions since about then that no row has.
func (m *Manager) orphans(ctx context.Context, since time.Time) ([]ChainSession, error) {
	ask, cancel := context.WithTimeout(ctx, m.opts.Lease)
	defer cancel()
	list, err := m.provider.WalletSessions(ask, since.Add(-skew))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNode, err)
	}
	ids := make([]string, len(list))
	for i := range list {
		ids[i] = list[i].ID
	}
	known, err := m.store.known(ctx, ids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(c ChainSession) bool { return known[c.ID] }), nil
}

// bestMatch finds the session that an intent most likely opened: of its model,
// not opened before it called, not longer than it asked (the chain shortens
// what is above its maximum), and of these the one closest in length, then the
// first one opened. Exact wants the length that was asked for. It returns -1
// where there is none.
func bestMatch(list []ChainSession, model string, duration time.Duration, called time.Time, exact bool) int {
	const slack = 10 * time.Second
	best := -1
	for i, c := range list {
		if !strings.EqualFold(c.ModelID, model) || c.OpenedAt.Before(called.Add(-skew)) || c.EndsAt.Sub(c.OpenedAt) > duration+slack ||
			exact && distance(c, duration) > 0 {
			continue
		}
		if best < 0 || cmp.Or(
			cmp.Compare(distance(c, duration), distance(list[best], duration)),
			c.OpenedAt.Compare(list[best].OpenedAt), cmp.Compare(c.ID, list[best].ID)) < 0 {
			best = i
		}
	}
	return best
}

// distance is how far a session's length is from what was asked, to ten seconds.
func distance(c ChainSession, duration time.Duration) time.Duration {
	return (duration - c.EndsAt.Sub(c.OpenedAt)).Abs().Round(20 * time.Second)
}

// errorText is an error as it is stored: bounded, and what PostgreSQL takes.
func errorText(err error) string { return text.Truncate(err.Error(), 500) }

// Package listen makes changes of flags known at once, through PostgreSQL's
// LISTEN, to a watcher that otherwise polls:
//
//	go listen.Run(ctx, dsn, watcher.Nudge, listen.Options{})
//
// It is a hint and no more: the poll stays the truth, and whatever goes wrong
// here costs no more than the wait for the next poll. It takes one connection
// of its own, by pgx, whose waits end with their context (lib/pq's listener
// has a goroutine of its own that panics on a malformed frame and hangs on a
// frozen server). The DSN must lead to the primary and past any pooler in
// transaction mode: through one, LISTEN succeeds and nothing ever arrives.
package listen

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Channel is what the trigger on feature_flags notifies.
const Channel = "automation_flags"

// Options of Run. The zero value works.
type Options struct {
	// Silence is how long nothing may come before the server is asked whether
	// it is still there: 15 s. It has a third of that to answer.
	Silence time.Duration
	// Pause is the longest wait before a lost connection is made again: 30 s.
	Pause time.Duration
	// Logger hears once when the hints stop, and once when they are back; nil
	// discards.
	Logger *slog.Logger
}

// Run calls nudge for each change of a flag, and each time that it has begun
// to listen, since something may have changed before. It connects again
// whatever happens, and returns when ctx ends. An invalid DSN is an error at
// once.
func Run(ctx context.Context, dsn string, nudge func(), o Options) error {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return errors.New("listen: no valid PostgreSQL DSN") // err may repeat the password
	}
	if o.Silence <= 0 {
		o.Silence = 15 * time.Second
	}
	if o.Pause <= 0 {
		o.Pause = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	pause, well := o.Pause/64, true
	for ctx.Err() == nil {
		err := once(ctx, config, func() {
			if !well {
				o.Logger.Info("listening for changes of flags again")
			}
			pause, well = o.Pause/64, true
			nudge()
		}, nudge, o)
		if ctx.Err() != nil {
			break
		}
		if well {
			o.Logger.Warn("not listening for changes of flags; polling finds them", "error", err)
		}
		well = false
		pause = min(2*pause, o.Pause)
		wait := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
	return nil
}

// once listens on one connection until it fails.
func once(ctx context.Context, config *pgx.ConnConfig, begun, nudge func(), o Options) error {
	bounded := func(fn func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, o.Silence/3)
		defer cancel()
		return fn(ctx)
	}
	var conn *pgx.Conn
	err := bounded(func(ctx context.Context) (err error) {
		conn, err = pgx.ConnectConfig(ctx, config)
		return err
	})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(end)
	}()
	err = bounded(func(ctx context.Context) error {
		_, err := conn.Exec(ctx, "LISTEN "+Channel, pgx.QueryExecModeSimpleProtocol)
		return err
	})
	if err != nil {
		return err
	}
	begun()
	for {
		quiet, cancel := context.WithTimeout(ctx, o.Silence)
		_, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			nudge()
		case pgconn.Timeout(err):
			if err := bounded(conn.Ping); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// Package listen makes a watcher of flags poll as soon as a flag changes, through
// PostgreSQL's LISTEN:
//
//	go listen.Run(ctx, dsn, watcher.Trigger, listen.Options{})
//
// Correctness does not depend on it: if it fails, the watcher sees the change at
// its next regular poll. It takes one connection of its
// own, by pgx, whose waits end with their context (lib/pq's listener has a
// goroutine of its own that panics on a malformed frame and hangs on a frozen
// server). The DSN must lead to the primary and past any pooler in transaction
// mode: through one, LISTEN succeeds and nothing ever arrives.
package listen

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

// channel is what the trigger on feature_flags notifies.
const channel = "automation_flags"

// Options of Run. The zero value works.
type Options struct {
	// KeepAlive is how long nothing may come before the server is asked
	// whether it is still there; 0 means 15 s. It has a third of that to answer.
	KeepAlive time.Duration
	// MaxBackoff is the longest wait before connecting again; 0 means 30 s.
	MaxBackoff time.Duration
	// Logger gets a line when the hints stop and when they are back; nil
	// discards.
	Logger *slog.Logger
}

// Run calls changed for each change of a flag, and each time that it has begun
// to listen, since something may have changed before. It connects again
// whatever happens, and returns nil when ctx ends. An invalid DSN is an error
// at once.
func Run(ctx context.Context, dsn string, changed func(), o Options) error {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return errors.New("listen: not a valid PostgreSQL DSN") // err may repeat the password
	}
	if o.KeepAlive <= 0 {
		o.KeepAlive = 15 * time.Second
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	failures := 0
	retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
		err := listen(ctx, config, o.KeepAlive, changed, func() {
			if failures > 0 {
				o.Logger.InfoContext(ctx, "listening for changes of flags again")
			}
			failures = 0
			changed()
		})
		if ctx.Err() != nil {
			return 0
		}
		if failures == 0 {
			o.Logger.WarnContext(ctx, "not listening for changes of flags; polling finds them", "error", err)
		}
		failures++
		return retry.Backoff(failures, o.MaxBackoff/64, o.MaxBackoff)
	})
	return nil
}

// listen listens on one connection until it fails. It calls begun once, and
// changed for each notification.
func listen(ctx context.Context, config *pgx.ConnConfig, keepAlive time.Duration, changed, begun func()) error {
	bounded := func(fn func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, keepAlive/3)
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
		_, err := conn.Exec(ctx, "LISTEN "+channel, pgx.QueryExecModeSimpleProtocol)
		return err
	})
	if err != nil {
		return err
	}
	begun()
	for {
		quiet, cancel := context.WithTimeout(ctx, keepAlive)
		_, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			changed()
		case pgconn.Timeout(err):
			if err := bounded(conn.Ping); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

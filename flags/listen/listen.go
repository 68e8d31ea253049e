// Package listen makes a watcher of flags poll as soon as a flag changes, through
// PostgreSQL's LISTEN:
//
//	go listen.Run(ctx, dsn, watcher.Trigger, listen.Options{})
//
// Correctness does not depend on it: without notifications, the watcher sees the
// change at its next regular poll.
//
// Run uses one connection of its own. The DSN must lead to the primary, and not
// through a pooler in transaction mode: there LISTEN succeeds, but notifications
// do not arrive. The driver is pgx, whose waits end with their context; lib/pq's
// listener runs a goroutine that panics on a malformed frame and hangs on a
// frozen server.
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
	// KeepAlive is the time without notifications after which Run pings the
	// server; 0 means 15 s. The server must answer within a third of KeepAlive.
	KeepAlive time.Duration
	// MaxBackoff is the longest wait before connecting again; 0 means 30 s.
	MaxBackoff time.Duration
	// Logger logs when Run stops receiving notifications and when it receives
	// them again; nil discards.
	Logger *slog.Logger
}

// Run calls changed for each change of a flag, and each time that it starts to
// listen, because a flag may have changed before. After any failure it connects
// again. It returns an error at once if the DSN is invalid, and otherwise nil when
// ctx ends.
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

// listen listens on one connection until it fails. It calls started once LISTEN
// has succeeded, and changed for each notification.
func listen(ctx context.Context, config *pgx.ConnConfig, keepAlive time.Duration, changed, started func()) error {
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
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closeCtx)
	}()
	err = bounded(func(ctx context.Context) error {
		_, err := conn.Exec(ctx, "LISTEN "+channel, pgx.QueryExecModeSimpleProtocol)
		return err
	})
	if err != nil {
		return err
	}
	started()
	for {
		waitCtx, cancel := context.WithTimeout(ctx, keepAlive)
		_, err := conn.WaitForNotification(waitCtx)
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

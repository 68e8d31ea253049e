package sqldb

import (
	"context"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"
)

// Exec runs one statement that writes, as Write does, and returns how many rows
// it affected. With lib/pq and pgx it is one message with all that the transaction
// states of itself, and so one round trip. The statement may run a second time
// after its reply was lost, and must do no harm then.
func Exec(ctx context.Context, db *DB, name, query string, args ...any) (int64, error) {
	message, ok := db.message(db.write(), query, args)
	return run(ctx, db, name, func(ctx context.Context, p *phase) (int64, error) {
		if ok {
			n, err := send(ctx, db, p, func(ctx context.Context, conn *sqlx.Conn) (int64, error) {
				res, err := conn.ExecContext(ctx, message)
				if err != nil {
					return 0, err
				}
				return res.RowsAffected()
			})
			doubt := errors.Is(err, ErrOutcomeUnknown)
			if err == nil || ctx.Err() != nil || !doubt && !repeatable(err) {
				return n, err
			}
			p.again(doubt)
		}
		return repeat(ctx, db, p, func(tx *Tx) (int64, error) { return tx.Exec(query, args...) }, db.write())
	}, false)
}

// Query runs one statement that writes and returns the rows that it gives back,
// as Write does. With lib/pq and pgx it is one round trip, and not run again after a
// lost reply but of unknown outcome.
func Query[T any](ctx context.Context, db *DB, name, query string, args ...any) ([]T, error) {
	return QueryFunc[T](ctx, db, name, func() (string, []any) { return query, args })
}

// QueryFunc is Query for a statement that is made once a connection may be used, so that it
// covers what has come up during the wait. If statement returns "", nothing is sent.
func QueryFunc[T any](ctx context.Context, db *DB, name string, statement func() (query string, args []any)) ([]T, error) {
	return run(ctx, db, name, func(ctx context.Context, p *phase) ([]T, error) {
		query, args := statement()
		if query == "" {
			return nil, nil
		}
		if read, ok := singleQuery[T](db, query, args); ok {
			list, err := send(ctx, db, p, read)
			if err == nil || !repeatable(err) || ctx.Err() != nil {
				return list, err
			}
			p.again(false)
		}
		return repeat(ctx, db, p, func(tx *Tx) (list []T, err error) { return list, tx.Select(&list, query, args...) }, db.write())
	}, false)
}

// singleQuery returns how to run a query in one round trip, or false where the
// driver is not known to be able to.
func singleQuery[T any](db *DB, query string, args []any) (func(context.Context, *sqlx.Conn) ([]T, error), bool) {
	switch db.driver {
	case libpq: // it hands out the results of all statements of a message
		message, ok := db.message(db.write(), query, args)
		return lastResult[T](message), ok
	case pgxStdlib: // it sends a statement and its parameters together
		statement := db.Expand(query)
		durable := `WITH statement AS (` + statement + `) SELECT statement.* FROM statement WHERE (SELECT ` + durability + `) <> ''`
		return func(ctx context.Context, conn *sqlx.Conn) ([]T, error) {
			var list []T
			return list, conn.SelectContext(ctx, &list, durable, args...)
		}, true
	}
	return nil, false
}

// Select runs one statement that reads and returns its rows, as Read does. With lib/pq it is
// one round trip.
func Select[T any](ctx context.Context, db *DB, name, query string, args ...any) ([]T, error) {
	message, ok := "", false
	if db.driver == libpq {
		message, ok = db.message(db.read(), query, args)
	}
	return run(ctx, db, name, func(ctx context.Context, p *phase) ([]T, error) {
		if ok {
			list, err := send(ctx, db, p, lastResult[T](message))
			if err == nil || ctx.Err() != nil || !repeatable(err) && !errors.Is(err, ErrOutcomeUnknown) {
				return list, err
			}
			p.again(false)
		}
		return repeat(ctx, db, p, func(tx *Tx) (list []T, err error) { return list, tx.Select(&list, query, args...) }, db.read())
	}, true)
}

// lastResult returns how to read the rows of a message's last statement, after those of its
// settings.
func lastResult[T any](message string) func(context.Context, *sqlx.Conn) ([]T, error) {
	return func(ctx context.Context, conn *sqlx.Conn) ([]T, error) {
		rows, err := conn.QueryxContext(ctx, message)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		settings := 0
		for rows.Next() {
			settings++
		}
		if settings != 1 || !rows.NextResultSet() {
			return nil, errors.Join(errors.New("no result of the statement"), rows.Err())
		}
		var list []T
		return list, sqlx.StructScan(rows, &list)
	}
}

// message is a statement with all that its transaction states of itself. The
// server runs the statements of one message in one transaction, so the settings
// end with it, and a pooler gives it to one connection.
func (db *DB) message(m modes, query string, args []any) (string, bool) {
	if db.driver != libpq && db.driver != pgxStdlib { // SQLite's, one that wraps these, or a test's
		return "", false
	}
	statement, ok := withLiterals(db.Expand(query), args)
	return `SET TRANSACTION ISOLATION LEVEL READ COMMITTED; ` + m.setup + `; ` + statement, ok
}

// send runs fn, which sends one message, on a connection of its own, on which
// database/sql sends nothing twice.
func send[T any](ctx context.Context, db *DB, p *phase, fn func(context.Context, *sqlx.Conn) (T, error)) (v T, err error) {
	deadline, _ := ctx.Deadline()
	work, stop := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer stop()
	conn, err := db.pool.Connx(ctx)
	if err != nil {
		return v, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { release(conn, unusable(err) || errors.Is(err, ErrOutcomeUnknown)) }() // the rest of a reply may still come
	if ctx.Err() != nil || !p.commit() {
		return v, fmt.Errorf("%w: the caller gave up before the statement was sent", ErrUnavailable)
	}
	got, err := fn(work, conn)
	switch {
	case err == nil:
		return got, nil
	case certain(SQLState(err)):
		return v, asUnavailable(asReadOnlyServer(err))
	}
	return v, &unknown{err}
}

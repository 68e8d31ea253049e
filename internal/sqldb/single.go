package sqldb

import (
	"context"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"
)

// Exec runs one statement that writes, as Write does, and returns how many rows
// it affected. With lib/pq and pgx the transaction's settings and the statement are
// one message, and so one round trip. If the reply is lost, the statement may run a
// second time, so it must be idempotent.
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
			inDoubt := errors.Is(err, ErrOutcomeUnknown)
			canRepeat := inDoubt || repeatable(err)
			if err == nil || ctx.Err() != nil || !canRepeat {
				return n, err
			}
			p.prepareRetry(inDoubt)
		}
		return repeat(ctx, db, p, func(tx *Tx) (int64, error) { return tx.Exec(query, args...) }, db.write())
	}, false)
}

// Query runs one statement that writes, as Write does, and returns the rows of its
// RETURNING clause. With lib/pq and pgx it is one round trip. If the reply is lost,
// the statement is not run again: the error wraps ErrOutcomeUnknown.
func Query[T any](ctx context.Context, db *DB, name, query string, args ...any) ([]T, error) {
	return QueryFunc[T](ctx, db, name, func() (string, []any) { return query, args })
}

// QueryFunc is Query for a statement that is built after the wait for a slot, so that it can
// include work that arrived during the wait. If statement returns "", nothing is sent.
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
			p.prepareRetry(false)
		}
		return repeat(ctx, db, p, func(tx *Tx) (list []T, err error) { return list, tx.Select(&list, query, args...) }, db.write())
	}, false)
}

// singleQuery returns a function that runs a query in one round trip, or false if
// the driver is not known to support that.
func singleQuery[T any](db *DB, query string, args []any) (func(context.Context, *sqlx.Conn) ([]T, error), bool) {
	switch db.driver {
	case libpq: // gives access to the results of all statements of a message
		message, ok := db.message(db.write(), query, args)
		return lastResult[T](message), ok
	case pgxStdlib: // sends a statement and its parameters together
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
			canRepeat := repeatable(err) || errors.Is(err, ErrOutcomeUnknown)
			if err == nil || ctx.Err() != nil || !canRepeat {
				return list, err
			}
			p.prepareRetry(false)
		}
		return repeat(ctx, db, p, func(tx *Tx) (list []T, err error) { return list, tx.Select(&list, query, args...) }, db.read())
	}, true)
}

// lastResult returns a function that sends a message and reads the rows of its last statement.
// The row of the settings comes before them.
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
			return nil, errors.Join(errors.New("the reply has no result of the statement"), rows.Err())
		}
		var list []T
		return list, sqlx.StructScan(rows, &list)
	}
}

// message returns a statement together with its transaction's settings, or false if
// it cannot be sent so. The server runs the statements of one message in one
// transaction, so the settings end with it, and a pooler uses one connection for it.
func (db *DB) message(m modes, query string, args []any) (string, bool) {
	if db.driver != libpq && db.driver != pgxStdlib { // SQLite's, one that wraps these, or a test's
		return "", false
	}
	statement, ok := withLiterals(db.Expand(query), args)
	return `SET TRANSACTION ISOLATION LEVEL READ COMMITTED; ` + m.setup + `; ` + statement, ok
}

// send runs fn, which sends one message. It takes a connection from the pool for
// it, because database/sql may send a message twice on a pool but not on a connection.
func send[T any](ctx context.Context, db *DB, p *phase, fn func(context.Context, *sqlx.Conn) (T, error)) (v T, err error) {
	deadline, _ := ctx.Deadline()
	work, stop := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer stop()
	conn, err := db.pool.Connx(ctx)
	if err != nil {
		return v, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { release(conn, unusable(err) || errors.Is(err, ErrOutcomeUnknown)) }() // the rest of a lost reply may still arrive
	if ctx.Err() != nil || !p.commit() {
		return v, fmt.Errorf("%w: the caller gave up before the statement was sent", ErrUnavailable)
	}
	got, err := fn(work, conn)
	switch {
	case err == nil:
		return got, nil
	case meansRolledBack(SQLState(err)):
		return v, asUnavailable(asReadOnlyServer(err))
	}
	return v, &unknown{err}
}

package sqldb

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"
)

// Look reads rows by one statement alone, without a transaction around it, so that what is
// asked again and again costs the database as little as can be. The statement has no
// parameters: a driver that sends them apart could meet two servers' connections through a
// transaction pooler. It must not depend on the session's settings, such as its time zone, nor
// run long, since only the caller's deadline ends it.
func Look[T any](ctx context.Context, db *DB, name, query string) ([]T, error) {
	return run(ctx, db, name, func(ctx context.Context, _ *phase) (list []T, err error) {
		for left := db.pool.Stats().OpenConnections; ; left-- {
			list, err = look[T](ctx, db, query)
			// After a restart of the server all of the pool's connections are dead.
			if err == nil || left <= 0 || !unusable(err) || ctx.Err() != nil {
				return list, err
			}
		}
	}, true)
}

func look[T any](ctx context.Context, db *DB, query string) (list []T, err error) {
	conn, err := db.pool.Connx(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { release(conn, unusable(err)) }()
	if err := sqlx.SelectContext(ctx, conn, &list, db.Expand(query)); err != nil {
		return nil, asUnavailable(err)
	}
	return list, nil
}

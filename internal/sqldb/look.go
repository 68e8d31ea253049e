package sqldb

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"
)

// Look reads rows with one statement and without a transaction, so that frequent polling costs
// the database as little as possible. The statement has no parameters: a driver that sends them
// in a second message could reach another server connection behind a transaction pooler. It must
// not depend on session settings such as the time zone. It must be quick, because only the
// caller's deadline ends it.
func Look[T any](ctx context.Context, db *DB, name, query string) ([]T, error) {
	return run(ctx, db, name, func(ctx context.Context, _ *phase) (list []T, err error) {
		for retries := db.pool.Stats().OpenConnections; ; retries-- {
			list, err = look[T](ctx, db, query)
			// After a restart of the server all of the pool's connections are dead.
			if err == nil || retries <= 0 || !unusable(err) || ctx.Err() != nil {
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

package settings_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// exec runs statements directly, as a host would.
func exec(ctx context.Context, t *testing.T, pool *sqlx.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := pool.ExecContext(ctx, s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// layout returns the table's columns with their types, and its keys.
func layout(t *testing.T, pool *sqlx.DB) (list []string) {
	t.Helper()
	if err := pool.SelectContext(t.Context(), &list, `
		SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute
		WHERE attrelid = 'user_automation_settings'::regclass AND attnum > 0 AND NOT attisdropped
		UNION ALL
		SELECT pg_get_constraintdef(oid) FROM pg_constraint
		WHERE conrelid = 'user_automation_settings'::regclass AND contype IN ('f', 'p', 'u')
		ORDER BY 1`); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestStore_WorksOnAnAdoptedTable(t *testing.T) {
	t.Parallel()
	pool, ctx, ok := pgtest.Open(t, pgtest.Database(t)), t.Context(), must[settings.Settings](t)
	exec(ctx, t, pool,
		`CREATE TABLE users (id integer PRIMARY KEY)`,
		`INSERT INTO users SELECT generate_series(1, 9)`,
		`CREATE TABLE user_automation_settings (
			id               serial PRIMARY KEY,
			user_id          integer UNIQUE REFERENCES users (id) ON DELETE CASCADE,
			is_enabled       boolean,
			session_duration integer,
			created_at       timestamp,
			updated_at       timestamp)`,
		`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at) VALUES
			(1, true, 1800, '2026-01-02 03:04:05', '2026-02-03 04:05:06'),
			(2, false, 60, '2026-01-02 03:04:05', '2026-02-03 04:05:06'),
			(3, true, NULL, NULL, NULL)`)
	before := layout(t, pool)
	store := newStore(t, migrated(t, pool))

	one := settings.Settings{UserID: "1", IsEnabled: true, SessionDuration: 30 * time.Minute, Version: 1,
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), UpdatedAt: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)}
	if diff := cmp.Diff(one, ok(store.Get(ctx, "1"))); diff != "" {
		t.Errorf("the host's row (-want +got):\n%s", diff)
	}
	want(t, ok(store.Get(ctx, "2")), settings.Settings{UserID: "2", SessionDuration: 5 * time.Minute, Version: 1})
	three := settings.Settings{UserID: "3", IsEnabled: true, SessionDuration: time.Hour, Version: 1} // the host states no times
	if diff := cmp.Diff(three, ok(store.Get(ctx, "3"))); diff != "" {
		t.Errorf("a row of NULLs (-want +got):\n%s", diff)
	}

	want(t, ok(store.Put(ctx, "1", off(time.Hour), settings.IfVersion(1))), settings.Settings{UserID: "1", SessionDuration: time.Hour, Version: 2})
	want(t, ok(store.Put(ctx, "4", on(time.Hour), settings.IfVersion(0))), settings.Settings{UserID: "4", IsEnabled: true, SessionDuration: time.Hour, Version: 1})
	want(t, ok(store.Delete(ctx, "2", settings.Always)), settings.Settings{UserID: "2", SessionDuration: time.Hour})
	if err := store.EraseUser(ctx, "3"); err != nil {
		t.Fatal(err)
	}

	if _, err := schema.Down(ctx, pool, 99); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, layout(t, pool)); diff != "" {
		t.Errorf("the table after the down migrations (-before +after):\n%s", diff)
	}
	type row struct {
		UserID          int  `db:"user_id"`
		IsEnabled       bool `db:"is_enabled"`
		SessionDuration int  `db:"session_duration"`
	}
	var remaining []row
	if err := pool.SelectContext(ctx, &remaining, `SELECT user_id, is_enabled, session_duration FROM user_automation_settings ORDER BY user_id`); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]row{{1, false, 3600}, {4, true, 3600}}, remaining); diff != "" {
		t.Errorf("the rows after the down migrations (-want +got):\n%s", diff)
	}
	// The host's own statements work again.
	exec(ctx, t, pool, `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration) VALUES (5, true, 3600)`, `DELETE FROM users WHERE id = 1`)
}

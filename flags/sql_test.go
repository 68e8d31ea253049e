package flags_test

import (
	"cmp"
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// The statements are those of the deployment plan.
func TestTable_AcceptsTheStatementsOfTheDeploymentPlan(t *testing.T) {
	steps := []struct {
		statement string
		on, off   []string // users
	}{
		{`UPDATE feature_flags SET enabled_user_ids = '[1, 2, 3]' WHERE feature_name = 'automation';`, []string{"1", "2", "3"}, []string{"0", "4"}},
		{`UPDATE feature_flags SET enabled_user_ids = '["1", "2", "x"]' WHERE feature_name = 'automation';`, []string{"1", "2", "x"}, []string{"0", "3"}},
		// User 0 has bucket 277, below 1,000; the others have higher ones.
		{`UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation';`, []string{"0", "1", "2", "x"}, []string{"3"}},
		{`UPDATE feature_flags SET enabled = false WHERE feature_name = 'automation';`, nil, []string{"0", "1", "2", "x", "3"}},
	}
	check := func(t *testing.T, w *flags.Watcher, on, off []string, version int64) {
		t.Helper()
		refreshed(t, w)
		for _, user := range on {
			if d := w.Decide("automation", user); !d.On || d.Version != version {
				t.Errorf("user %s: %+v, want on at version %d", user, d, version)
			}
		}
		for _, user := range off {
			if d := w.Decide("automation", user); d.On || d.Version != version {
				t.Errorf("user %s: %+v, want off at version %d", user, d, version)
			}
		}
	}
	onBoth(t, func(t *testing.T, db database) {
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{}))
		for i, s := range steps {
			db.sql(t, s.statement)
			check(t, w, s.on, s.off, int64(i+2))
		}
	})
	t.Run("psql", func(t *testing.T) {
		psql, err := exec.LookPath("psql")
		if err != nil {
			t.Skip("psql is not on PATH")
		}
		db := postgres(t)
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{}))
		for i, s := range steps {
			out, err := exec.CommandContext(t.Context(), psql, "-X", "-v", "ON_ERROR_STOP=1", "-c", s.statement, db.dsn).CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != "UPDATE 1" {
				t.Fatalf("psql %s: %v, output %s; want UPDATE 1", s.statement, err, out)
			}
			check(t, w, s.on, s.off, int64(i+2))
		}
	})
}

func TestWatcher_ReadsALongList(t *testing.T) {
	db := postgres(t)
	db.sql(t, `UPDATE feature_flags SET enabled_user_ids = (SELECT jsonb_agg(i) FROM generate_series(1, 10000) AS i)`)
	w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{}))
	if n := w.Flag("automation").EnabledUserIDs.Len(); n != 10_000 {
		t.Errorf("the flag lists %d ids, want 10,000", n)
	}
	for user, want := range map[string]bool{"1": true, "10000": true, "0": false, "10001": false} {
		if d := w.Decide("automation", user); d.On != want {
			t.Errorf("user %s: decision %+v, want on = %t", user, d, want)
		}
	}
}

func TestBucket_IsTheSameInSQL(t *testing.T) {
	db := postgres(t)
	list := goldenVectors(t)
	r := rand.New(rand.NewPCG(3, 4))
	ranges := [][2]rune{{' ', '~'}, {0xa0, 0x17f}, {0x400, 0x4ff}, {0x5d0, 0x5ea}, {0x4e00, 0x9fff}, {0x1f300, 0x1faff}, {0x10fff0, 0x10ffff}}
	randomText := func() string {
		var s strings.Builder
		for range r.IntN(40) {
			c := ranges[r.IntN(len(ranges))]
			s.WriteRune(c[0] + rune(r.IntN(int(c[1]-c[0]+1))))
		}
		return s.String()
	}
	for range 5000 {
		v := vector{Seed: randomText(), User: randomText()}
		v.Bucket = flags.Bucket(v.Seed, v.User)
		list = append(list, v)
	}
	input, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	var got []struct {
		Seed string `db:"seed"`
		User string `db:"user_id"`
		Go   int    `db:"bucket"`
		SQL  int    `db:"in_sql"`
	}
	if err := db.SelectContext(t.Context(), &got, `SELECT v.seed, v."user" AS user_id, v.bucket, automation_bucket(v.seed, v."user") AS in_sql
		FROM jsonb_to_recordset(CAST($1 AS jsonb)) AS v(seed text, "user" text, bucket integer)`, string(input)); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(list) {
		t.Fatalf("%d rows, want %d", len(got), len(list))
	}
	for _, g := range got {
		if g.Go != g.SQL {
			t.Errorf("bucket of %q, %q: %d in Go, %d in SQL", g.Seed, g.User, g.Go, g.SQL)
		}
		f := &flags.Flag{Name: "x", Seed: g.Seed}
		if got, want := flags.Explain(f, g.User, true).Bucket, flags.Bucket(cmp.Or(g.Seed, f.Name), g.User); got != want {
			t.Errorf("bucket of user %q of a flag with seed %q: %d, want %d", g.User, g.Seed, got, want)
		}
	}
}

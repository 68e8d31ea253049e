package flags_test

import (
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// randomID returns a number, or a text of any characters except U+0000, which
// PostgreSQL cannot store.
func randomID(r *rand.Rand) string {
	switch r.IntN(4) {
	case 0:
		return strconv.Itoa(r.IntN(400) - 100)
	case 1:
		return strings.Repeat("0", r.IntN(2)) + strconv.FormatUint(r.Uint64(), 10)
	}
	var s strings.Builder
	for range 1 + r.IntN(12) {
		c := rune(1 + r.IntN(0x10ffff))
		if r.IntN(2) == 0 {
			c = rune(1 + r.IntN(0x7f))
		}
		if 0xd800 <= c && c <= 0xdfff {
			c = 'x'
		}
		s.WriteRune(c)
	}
	return s.String()
}

// jsonList returns a JSON list of the ids, as a DBA may type it: some of those
// that are numbers are written as numbers.
func jsonList(t *testing.T, r *rand.Rand, ids []string) string {
	t.Helper()
	var list []any
	for _, id := range ids {
		var n json.Number
		if r.IntN(2) == 0 && json.Unmarshal([]byte(id), &n) == nil && !strings.ContainsAny(id, ".eE\" ") {
			list = append(list, n)
		} else {
			list = append(list, id)
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExplain_IsTheSameInSQL(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 4 s: explains 100,000 users")
	}
	db := postgres(t)
	r := rand.New(rand.NewPCG(7, 8))
	users := []string{"", "0", "-0", "-5", "007", "7", "1e3", "1000", " 7", "7 ", "7\n", "+7", "٧", "null", "true", `"7"`, "[7]", "'; --", "\\u0000", "é", "e\u0301", "\ufeff", "\U0010ffff", strings.Repeat("9", 5000), strings.Repeat("9", 200_000)}
	for len(users) < 100_000 {
		users = append(users, randomID(r))
	}
	quoted := func(ids []string) string { return "'" + strings.ReplaceAll(jsonList(t, r, ids), "'", "''") + "'" }
	enabled, disabled := quoted(append([]string{"0", "-5", "7", "1000"}, users[100:200]...)), quoted(users[150:180])
	for name, set := range map[string]string{
		"percentage": `rollout_percentage = 33.33`,
		"nobody":     `rollout_percentage = 0`,
		"everybody":  `rollout_percentage = 100`,
		"lists":      `enabled_user_ids = ` + enabled + `, disabled_user_ids = ` + disabled + `, rollout_percentage = 50, seed = 'ß😀'`,
		"disabled":   `enabled = false, enabled_user_ids = '[1]', rollout_percentage = 50`,
	} {
		db.sql(t, `INSERT INTO feature_flags (feature_name, enabled) VALUES ('`+name+`', true)`, `UPDATE feature_flags SET `+set+` WHERE feature_name = '`+name+`'`)
	}
	w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{}))
	seen := map[flags.Reason]int{}
	for _, name := range []string{"percentage", "nobody", "everybody", "lists", "disabled", "automation", "no such flag"} {
		users := users
		if name != "lists" { // all users only where all rules apply
			users = users[:2000]
		}
		input, err := json.Marshal(users)
		if err != nil {
			t.Fatal(err)
		}
		var got []struct {
			User    string `db:"id"`
			Enabled bool   `db:"enabled"`
			Reason  string `db:"reason"`
			Bucket  int    `db:"bucket"`
			Version int64  `db:"version"`
		}
		if err := db.SelectContext(t.Context(), &got, `SELECT u.id, e.* FROM jsonb_array_elements_text(CAST($1 AS jsonb)) WITH ORDINALITY AS u(id, n), automation_explain($2, u.id) AS e ORDER BY u.n`,
			string(input), name); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(users) {
			t.Fatalf("%s: %d rows for %d users", name, len(got), len(users))
		}
		for i, g := range got {
			e := flags.Explain(w.Flag(name), users[i], true)
			seen[e.Reason]++
			if g.User != users[i] || g.Enabled != e.On || g.Reason != e.Reason.String() || g.Bucket != e.Bucket || g.Version != e.Version {
				t.Fatalf("flag %s, user %.60q: SQL returns %.200v, Go %+v", name, users[i], g, e.Decision)
			}
		}
	}
	for _, reason := range []flags.Reason{flags.ReasonMissing, flags.ReasonDisabled, flags.ReasonUserDisabled, flags.ReasonUserEnabled, flags.ReasonInPercentage, flags.ReasonOutsidePercentage} {
		if seen[reason] == 0 {
			t.Errorf("no decision was %v: the test does not cover it", reason)
		}
	}
}

func TestExplain_IsOffForNullInSQL(t *testing.T) {
	db := postgres(t)
	db.sql(t, `UPDATE feature_flags SET rollout_percentage = 100, enabled_user_ids = '[1]'`)
	for _, args := range []string{`'automation', NULL`, `NULL, '1'`, `NULL, NULL`} {
		var on []bool
		if err := db.SelectContext(t.Context(), &on, `SELECT enabled FROM automation_explain(`+args+`)`); err != nil || len(on) != 1 || on[0] {
			t.Errorf("automation_explain(%s) returns enabled = %v, %v; want one row with false", args, on, err)
		}
	}
}

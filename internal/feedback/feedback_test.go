package feedback_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jmoiron/sqlx"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const flag = "automation"

// onBoth runs a test on each database, migrated and empty.
func onBoth(t *testing.T, test func(t *testing.T, pool *sqlx.DB, store *feedback.Store)) {
	t.Helper()
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		t.Parallel()
		test(t, pool, feedback.NewStore(pool, sqldb.Options{}))
	})
}

func add(t *testing.T, s *feedback.Store, user, key string, rating int, message string) feedback.Entry {
	t.Helper()
	given := &rating
	if rating == 0 {
		given = nil
	}
	e, err := s.Add(t.Context(), flag, user, key, given, message)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestStore_KeepsWhatUsersSaid(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *sqlx.DB, s *feedback.Store) {
		first := add(t, s, "ann", "k1", 0, "It is fast.")
		second := add(t, s, "bob", "k2", 2, "Sessions ended early.\nTwice.")
		got, err := s.List(t.Context(), feedback.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		rating := 2
		want := []feedback.Entry{
			{ID: second.ID, UserID: "bob", Rating: &rating, Message: "Sessions ended early.\nTwice.", Stage: "0 %"},
			{ID: first.ID, UserID: "ann", Message: "It is fast.", Stage: "0 %"},
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(feedback.Entry{}, "CreatedAt")); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		if got[0].CreatedAt.IsZero() {
			t.Error("the newest entry has no CreatedAt")
		}
	})
}

func TestStore_AddRepeatedWithOneKeyStoresOneEntry(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *sqlx.DB, s *feedback.Store) {
		first, again := add(t, s, "ann", "k", 5, "Good."), add(t, s, "ann", "k", 5, "Good.")
		if first.ID != again.ID {
			t.Errorf("entries %d and %d for one submission", first.ID, again.ID)
		}
		if got, err := s.List(t.Context(), feedback.Filter{}); err != nil || len(got) != 1 {
			t.Errorf("%d entries are stored, %v; want 1", len(got), err)
		}
	})
}

func TestStore_KeepsTheStageAtTheTime(t *testing.T) {
	onBoth(t, func(t *testing.T, pool *sqlx.DB, s *feedback.Store) {
		exec := func(query string) {
			t.Helper()
			if _, err := pool.ExecContext(t.Context(), query); err != nil {
				t.Fatal(err)
			}
		}
		stage := func(user string) string {
			t.Helper()
			e, err := s.Add(t.Context(), flag, user, user, nil, "x")
			if err != nil {
				t.Fatal(err)
			}
			return e.Stage
		}
		for percentage, want := range map[string]string{"0": "0 %", "10": "10 %", "12.5": "12.5 %", "100": "100 %"} {
			exec(`UPDATE feature_flags SET rollout_percentage = ` + percentage + ` WHERE feature_name = 'automation'`)
			if got := stage("at " + percentage); got != want {
				t.Errorf("the stage of a flag at %s %% is %q, want %q", percentage, got, want)
			}
		}
	})
}

func TestStore_ListFiltersAndPages(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *sqlx.DB, s *feedback.Store) {
		for i := range 7 {
			e := add(t, s, fmt.Sprintf("user-%d", i%2), fmt.Sprint(i), 1+i%5, fmt.Sprintf("message %d", i))
			if i < 2 {
				if _, err := s.MarkDone(t.Context(), e.ID, "carol"); err != nil {
					t.Fatal(err)
				}
			}
		}
		for name, test := range map[string]struct {
			filter feedback.Filter
			want   []string
		}{
			"all entries":         {feedback.Filter{}, []string{"6", "5", "4", "3", "2", "1", "0"}},
			"open ones":           {feedback.Filter{Open: true}, []string{"6", "5", "4", "3", "2"}},
			"those of a user":     {feedback.Filter{UserID: "user-1"}, []string{"5", "3", "1"}},
			"one of a stage":      {feedback.Filter{Stage: "0 %", Limit: 1}, []string{"6"}},
			"a stage without any": {feedback.Filter{Stage: "10 %"}, nil},
			"all conditions":      {feedback.Filter{Open: true, Stage: "0 %", UserID: "user-0", Limit: 2}, []string{"6", "4"}},
		} {
			got, err := s.List(t.Context(), test.filter)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			var messages []string
			for _, e := range got {
				messages = append(messages, strings.TrimPrefix(e.Message, "message "))
			}
			if diff := cmp.Diff(test.want, messages); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		var all []int64
		for before := int64(0); ; {
			page, err := s.List(t.Context(), feedback.Filter{Limit: 3, Before: before})
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, e := range page {
				all = append(all, e.ID)
			}
			before = page[len(page)-1].ID
		}
		if len(all) != 7 {
			t.Errorf("the pages of 3 have %d entries in all, want 7", len(all))
		}
	})
}

func TestStore_MarkDoneKeepsWhoWasFirst(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *sqlx.DB, s *feedback.Store) {
		e := add(t, s, "ann", "k", 0, "x")
		first, err := s.MarkDone(t.Context(), e.ID, "carol")
		if err != nil || first.DoneBy != "carol" || first.DoneAt.IsZero() {
			t.Fatalf("marked by carol: %+v, %v", first, err)
		}
		again, err := s.MarkDone(t.Context(), e.ID, "dave")
		if err != nil || again.DoneBy != "carol" || !again.DoneAt.Equal(first.DoneAt.Time) {
			t.Errorf("marked again by dave: %+v, %v; want it unchanged, done by carol", again, err)
		}
		if _, err := s.MarkDone(t.Context(), e.ID+1, "carol"); !errors.Is(err, feedback.ErrNotFound) {
			t.Errorf("an unknown id: %v, want ErrNotFound", err)
		}
	})
}

func TestStore_CountByStage(t *testing.T) {
	onBoth(t, func(t *testing.T, pool *sqlx.DB, s *feedback.Store) {
		e := add(t, s, "ann", "1", 4, "x")
		add(t, s, "ann", "2", 1, "x")
		add(t, s, "ann", "3", 0, "x")
		if _, err := s.MarkDone(t.Context(), e.ID, "carol"); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.ExecContext(t.Context(), `UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation'`); err != nil {
			t.Fatal(err)
		}
		add(t, s, "bob", "4", 5, "x")
		got, err := s.CountByStage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := []feedback.StageCount{{Stage: "10 %", Count: 1, Open: 1, Rated: 1, Rating: 5}, {Stage: "0 %", Count: 3, Open: 2, Rated: 2, Rating: 2.5}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("counts (-want +got):\n%s", diff)
		}
	})
}

func TestStore_EraseDeletesOneUsersEntries(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *sqlx.DB, s *feedback.Store) {
		add(t, s, "ann", "1", 0, "x")
		add(t, s, "bob", "2", 0, "x")
		for range 2 {
			if err := s.Erase(t.Context(), "ann"); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.List(t.Context(), feedback.Filter{})
		if err != nil || len(got) != 1 || got[0].UserID != "bob" {
			t.Errorf("the entries that remain are %+v, %v; want bob's alone", got, err)
		}
	})
}

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		rating  int
		message string
		want    string // the field of the error, or empty for none
	}{
		"the lowest rating":     {1, "x", ""},
		"the highest rating":    {5, "x", ""},
		"a rating of zero":      {0, "x", "rating"},
		"a rating of six":       {6, "x", "rating"},
		"the longest message":   {1, strings.Repeat("é", feedback.MaxMessage), ""},
		"a longer message":      {1, strings.Repeat("é", feedback.MaxMessage+1), "message"},
		"no message":            {1, " \n", "message"},
		"a message with a NUL":  {1, "a\x00b", "message"},
		"a truncated character": {1, "a\xc3", "message"},
		"a message with SQL":    {1, "'; DROP TABLE automation_feedback; --", ""},
	} {
		err := feedback.Check(&test.rating, test.message)
		if (err == nil) != (test.want == "") || err != nil && (!errors.Is(err, feedback.ErrInvalid) || !strings.Contains(err.Error(), test.want+":")) {
			t.Errorf("%s: error %v, want one about the field %q", name, err, test.want)
		}
	}
	if err := feedback.Check(nil, "x"); err != nil {
		t.Errorf("no rating: error %v, want none", err)
	}
}

package fleet

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestSessions_AreFilteredAndPaged(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, exec func(...string)) {
		for _, r := range []struct {
			id, user, state string
			at              int
		}{{"a", "ann", "open", -50}, {"b", "bob", "open", -40}, {"c", "ann", "unknown", -30}, {"d", "ann", "closed", -30}, {"e", "", "failed", -10}} {
			exec(fmt.Sprintf(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, created_at, ends_at, next_at)
				VALUES ('%[1]s', '0x%[1]s', 'm', '%[2]s', '%[2]s', {now}, 3600, '%[3]s', {in %[4]d}, {in 600}, {now})`, r.id, r.user, r.state, r.at))
		}
		// Two rows with exactly the same time.
		exec(`UPDATE automation_sessions SET created_at = (SELECT created_at FROM automation_sessions WHERE id = 'c') WHERE id = 'd'`)
		for name, test := range map[string]struct {
			filter SessionFilter
			want   string
		}{
			"all":                                    {SessionFilter{}, "e d c b a"},
			"of a user":                              {SessionFilter{UserID: "ann"}, "d c a"},
			"in a state":                             {SessionFilter{State: "open"}, "b a"},
			"of a user in a state":                   {SessionFilter{UserID: "ann", State: "unknown"}, "c"},
			"in an unknown state":                    {SessionFilter{State: "nonsense"}, ""},
			"before the first row of the same time":  {SessionFilter{Before: "d"}, "c b a"},
			"before the second row of the same time": {SessionFilter{Before: "c"}, "b a"},
			"before an unknown row":                  {SessionFilter{Before: "nonsense"}, ""},
		} {
			page, next, err := s.Sessions(t.Context(), test.filter)
			if err != nil || next != "" {
				t.Errorf("%s: next %q, error %v; want the last page", name, next, err)
			}
			var got []string
			for _, r := range page {
				got = append(got, r.RowID)
			}
			if diff := cmp.Diff(strings.Fields(test.want), got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		var paged []string
		for before := ""; ; {
			page, next, err := s.Sessions(t.Context(), SessionFilter{Limit: 2, Before: before})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page {
				paged = append(paged, r.RowID)
			}
			if before = next; next == "" {
				break
			}
		}
		if got := strings.Join(paged, " "); got != "e d c b a" {
			t.Errorf("pages of two: rows %s, want e d c b a", got)
		}
	})
}

package sqldb_test

import (
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func TestTime_Scan(t *testing.T) {
	want := time.Date(2026, 2, 3, 4, 5, 6, 789e6, time.UTC)
	for name, c := range map[string]struct {
		src  any
		want time.Time
		ok   bool
	}{
		"NULL":                      {nil, time.Time{}, true},
		"a time in UTC":             {want, want, true},
		"a time in another zone":    {want.In(time.FixedZone("elsewhere", 3*3600)), want, true},
		"SQLite's text":             {"2026-02-03 04:05:06.789", want, true},
		"SQLite's text as bytes":    {[]byte("2026-02-03 04:05:06.789"), want, true},
		"a text without a fraction": {"2026-02-03 04:05:06", want.Truncate(time.Second), true},
		"an empty text":             {"", time.Time{}, false},
		"another format":            {"2026-02-03T04:05:06Z", time.Time{}, false},
		"infinity":                  {"infinity", time.Time{}, false},
		"a day that does not exist": {"2026-02-30 04:05:06", time.Time{}, false},
		"a number":                  {int64(1), time.Time{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := sqldb.Time{Time: time.Unix(1, 0)}
			if err := got.Scan(c.src); (err == nil) != c.ok {
				t.Fatalf("error %v; want success: %v", err, c.ok)
			}
			if c.ok && (got.Time != c.want || got.Location() != time.UTC) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

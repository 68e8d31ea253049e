package sqldb

import (
	"fmt"
	"time"
)

// now is this package's only clock and measures the duration of calls. Stored times
// come from the database's clock.
func now() time.Time { return time.Now() }

// Time scans a time column of either database, as UTC. NULL is the zero Time. Its JSON
// is that of a time.Time.
type Time struct{ time.Time }

// Scan implements sql.Scanner.
func (t *Time) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		t.Time = time.Time{}
		return nil
	case time.Time:
		t.Time = v.UTC()
		return nil
	case []byte:
		return t.parse(string(v))
	case string:
		return t.parse(v)
	}
	return fmt.Errorf("sqldb: a %T is not a time", src)
}

func (t *Time) parse(s string) error {
	v, err := time.Parse("2006-01-02 15:04:05.999999999", s)
	if err != nil {
		return fmt.Errorf("sqldb: %q is not a time: %w", s, err)
	}
	t.Time = v
	return nil
}

package sqldb

import (
	"fmt"
	"time"
)

// now is this package's only clock, for the durations of calls. Times that are
// stored come from the database's clock.
func now() time.Time { return time.Now() }

// Time reads a time column of either database, and is a time in JSON. NULL is the
// zero Time.
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

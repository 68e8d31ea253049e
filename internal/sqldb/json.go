package sqldb

import (
	"encoding/json"
	"fmt"
)

// JSON scans a JSON column of either database into V.
type JSON[T any] struct{ V T }

// Scan implements sql.Scanner.
func (j *JSON[T]) Scan(src any) error {
	switch v := src.(type) {
	case []byte:
		return json.Unmarshal(v, &j.V)
	case string:
		return json.Unmarshal([]byte(v), &j.V)
	}
	return fmt.Errorf("sqldb: a %T is not JSON", src)
}

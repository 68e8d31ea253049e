package flagsql

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/MorpheusAIs/gateway-automation/internal/strictjson"
)

// ParseIDs parses a JSON list of ids: whole numbers, whose digits are the id, and
// non-empty strings. An error names the wrong elements by their position and
// never shows an id.
func ParseIDs(list string) ([]string, error) {
	var elements []element
	if err := strictjson.Unmarshal([]byte(list), &elements); err != nil {
		return nil, err
	}
	ids := make([]string, len(elements))
	for i, e := range elements {
		ids[i] = string(e)
	}
	return ids, nil
}

// element is an id in a list.
type element string

// UnmarshalJSON implements json.Unmarshaler.
func (e *element) UnmarshalJSON(b []byte) error {
	var id string
	switch c := b[0]; {
	case c == '"':
		if err := json.Unmarshal(b, &id); err != nil {
			return err
		}
	case c == '-' || '0' <= c && c <= '9':
		if id = string(b); strings.ContainsAny(id, ".eE") {
			return errors.New("must be a whole number, without fraction or exponent")
		}
		if id == "-0" {
			id = "0"
		}
	default:
		return errors.New("must be a whole number or a string")
	}
	*e = element(id)
	return CheckID(id)
}

// CheckID returns an error if PostgreSQL or the table's constraints reject the id.
func CheckID(id string) error {
	if id == "" {
		return errors.New("must not be empty")
	}
	return CheckText(id)
}

// MaxIDs is how many ids a flag's list may hold.
const MaxIDs = 10_000

// CheckText returns an error if PostgreSQL rejects the text.
func CheckText(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("must be valid UTF-8")
	}
	if strings.IndexByte(s, 0) >= 0 {
		return errors.New("must not contain the character U+0000")
	}
	return nil
}

// ParsePercentage parses a number from 0 to 100 with at most two decimals, and
// returns hundredths of a per cent.
func ParsePercentage(s string) (int, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("%.20q is not a number", s)
	}
	p, err := percentage(f)
	if err != nil {
		return 0, err
	}
	if math.Abs(f*Buckets/100-float64(p)) > 1e-6 {
		return 0, fmt.Errorf("%s has more than two decimals", s)
	}
	return p, nil
}

// percentage returns hundredths of a per cent, rounded as PostgreSQL's
// numeric(5,2) does.
func percentage(f float64) (int, error) {
	if !(f >= 0 && f <= 100) { // rejects NaN as well
		return 0, fmt.Errorf("%v is not between 0 and 100", f)
	}
	return int(math.Round(f * Buckets / 100)), nil
}

// FormatPercentage returns the number before the % sign, "12.5".
func FormatPercentage(hundredths int) string {
	return strconv.FormatFloat(float64(hundredths)*100/Buckets, 'f', -1, 64)
}

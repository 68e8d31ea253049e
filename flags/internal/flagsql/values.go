package flagsql

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ParseIDs reads a JSON list of ids: whole numbers, as they are written, and
// strings that are not empty. Anything else is an error, which names the
// element and never shows an id.
func ParseIDs(list string) ([]string, error) {
	if !utf8.ValidString(list) {
		return nil, errors.New("the list is not valid UTF-8")
	}
	dec := json.NewDecoder(strings.NewReader(list))
	dec.UseNumber() // a float64 would round long numbers
	var elements []any
	if err := dec.Decode(&elements); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return nil, fmt.Errorf("must be a list, not %s", article(wrong.Value))
		}
		return nil, fmt.Errorf("not valid JSON: %w", noEOF(err))
	}
	if _, err := dec.Token(); err != io.EOF { //nolint:errorlint // Token documents it
		return nil, errors.New("something follows the list")
	}
	if elements == nil {
		return nil, errors.New("must be a list, not null")
	}
	// The decoder puts U+FFFD where an escape is half a surrogate pair, which
	// PostgreSQL refuses.
	replaced := !strings.ContainsRune(list, utf8.RuneError)
	ids := make([]string, len(elements))
	for i, e := range elements {
		id, err := parseID(e)
		if err == nil && replaced && strings.ContainsRune(id, utf8.RuneError) {
			err = errors.New("an escape is half a surrogate pair")
		}
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i+1, err)
		}
		ids[i] = id
	}
	return ids, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func parseID(element any) (string, error) {
	switch e := element.(type) {
	case string:
		return e, CheckID(e)
	case json.Number:
		if strings.ContainsAny(e.String(), ".eE") {
			return "", errors.New("must be a whole number, without fraction or exponent")
		}
		if e == "-0" {
			return "0", nil
		}
		return e.String(), nil
	case bool:
		return "", errors.New("must be a whole number or a string, not true or false")
	case nil:
		return "", errors.New("must be a whole number or a string, not null")
	case []any:
		return "", errors.New("must be a whole number or a string, not a list")
	}
	return "", errors.New("must be a whole number or a string, not an object")
}

func article(kind string) string {
	if kind == "object" {
		return "an object"
	}
	return "a " + kind
}

// CheckID returns what PostgreSQL or the tables' constraints refuse in an id.
func CheckID(id string) error {
	if id == "" {
		return errors.New("an empty string is no id")
	}
	return CheckText(id)
}

// CheckText returns what PostgreSQL refuses in a text.
func CheckText(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("the text is not valid UTF-8")
	}
	if strings.IndexByte(s, 0) >= 0 {
		return errors.New("the text holds U+0000")
	}
	return nil
}

// ParsePercentage reads a number of per cents from 0 to 100 with at most two
// decimals, and returns hundredths of a per cent.
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

// percentage rounds to hundredths, as PostgreSQL's numeric(5,2) does.
func percentage(f float64) (int, error) {
	if !(f >= 0 && f <= 100) { // NaN is neither
		return 0, fmt.Errorf("%v is not within 0 and 100", f)
	}
	return int(math.Round(f * Buckets / 100)), nil
}

// FormatPercentage is the number of per cents, "12.5".
func FormatPercentage(hundredths int) string {
	return strconv.FormatFloat(float64(hundredths)*100/Buckets, 'f', -1, 64)
}

package automation

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// variable is one field of Config as its tags describe it.
type variable struct {
	name     string
	fallback string // its default
	field    []int
	kind     reflect.Type
	unit     string // "seconds" or "days" for a duration that is written as a plain number
	low      string
	high     string
	why      string // the reason of the bounds
	choices  []string
}

var variables = describe(reflect.TypeFor[Config]())

func describe(config reflect.Type) []variable {
	var all []variable
	for _, f := range reflect.VisibleFields(config) {
		name, ok := f.Tag.Lookup("env")
		if !ok {
			continue
		}
		low, high, _ := strings.Cut(f.Tag.Get("range"), "..")
		all = append(all, variable{
			name: name, fallback: f.Tag.Get("envDefault"), field: f.Index, kind: f.Type,
			unit: f.Tag.Get("unit"), low: low, high: high, why: f.Tag.Get("why"),
			choices: strings.Fields(f.Tag.Get("oneof")),
		})
	}
	return all
}

// read returns the variable's text in the form that package env takes: what
// the environment has, or the default where that is nothing or wrong. Package
// env therefore never meets a bad value, which its errors would repeat.
func (v variable) read(environ map[string]string) (string, error) {
	text := environ[v.name]
	if v.kind != reflect.TypeFor[Secret]() {
		text = strings.TrimSpace(text)
	}
	if text == "" {
		return v.canonical(v.fallback)
	}
	canonical, err := v.canonical(text)
	if err != nil {
		canonical, _ = v.canonical(v.fallback)
		return canonical, err
	}
	return canonical, nil
}

// canonical checks that text has the variable's type and gives a plain number
// its unit.
func (v variable) canonical(text string) (string, error) {
	var err error
	switch {
	case v.low != "": // a number or a duration
		var n int64
		if n, err = v.number(text); err == nil && v.kind == reflect.TypeFor[time.Duration]() {
			text = time.Duration(n).String()
		}
	case v.kind.Kind() == reflect.Bool:
		_, err = strconv.ParseBool(text)
	}
	if err != nil {
		return "", v.unexpected(text)
	}
	return text, nil
}

// number parses text in the variable's notation; durations are nanoseconds.
func (v variable) number(text string) (int64, error) {
	if v.kind == reflect.TypeFor[time.Duration]() && v.unit == "" {
		d, err := time.ParseDuration(text)
		return int64(d), err
	}
	n, err := strconv.ParseInt(text, 10, v.bits())
	return n * v.scale(), err
}

// bits keeps a number of days or seconds so small that nanoseconds do not overflow.
func (v variable) bits() int {
	switch {
	case v.unit == "days":
		return 16
	case v.kind.Kind() == reflect.Int64 && v.unit == "":
		return 64
	}
	return 32
}

func (v variable) scale() int64 {
	switch v.unit {
	case "days":
		return int64(24 * time.Hour)
	case "seconds":
		return int64(time.Second)
	}
	return 1
}

// unexpected says what the variable takes. Only bounded kinds come here, so
// that got is no secret; it is cut all the same.
func (v variable) unexpected(got string) error {
	if len(got) > 40 {
		got = strings.ToValidUTF8(got[:40], "") + "…"
	}
	text := fmt.Sprintf("expected %s, got %q", v.expected(), got)
	if v.why != "" {
		text += ": " + v.why
	}
	return errors.New(text)
}

func (v variable) expected() string {
	switch {
	case len(v.choices) > 0:
		return strings.Join(v.choices, " or ")
	case v.kind.Kind() == reflect.Bool:
		return "true or false"
	case v.unit != "":
		return fmt.Sprintf("a whole number of %s from %s to %s", v.unit, v.low, v.high)
	case v.kind == reflect.TypeFor[time.Duration]():
		return fmt.Sprintf("a duration such as %s, from %s to %s", v.fallback, v.low, v.high)
	}
	return fmt.Sprintf("a whole number from %s to %s", v.low, v.high)
}

// checkBounds complains about fields outside their range or choices.
func (c Config) checkBounds(wrong complaints) {
	config := reflect.ValueOf(c)
	for _, v := range variables {
		field := config.FieldByIndex(v.field)
		switch {
		case len(v.choices) > 0:
			if !slices.Contains(v.choices, field.String()) {
				wrong.add(v.name, v.unexpected(field.String()))
			}
		case v.low != "":
			low, _ := v.number(v.low)
			high, _ := v.number(v.high)
			if n := field.Int(); n < low || n > high || n%v.scale() != 0 {
				wrong.add(v.name, v.unexpected(v.format(n)))
			}
		}
	}
}

// format writes a number as the variable's notation has it.
func (v variable) format(n int64) string {
	switch {
	case v.unit != "" && n%v.scale() == 0:
		return strconv.FormatInt(n/v.scale(), 10)
	case v.kind == reflect.TypeFor[time.Duration]():
		return time.Duration(n).String()
	}
	return strconv.FormatInt(n, 10)
}

// checkHTTPURL repeats nothing of the URL: what is in the wrong place may be a password.
func checkHTTPURL(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("expected a URL such as https://host:8082/path")
	case u.User != nil:
		return errors.New("expected a URL without credentials: it would be logged")
	}
	return nil
}

func checkDatabaseURL(text string) error {
	if text == "" {
		return nil
	}
	for _, scheme := range []string{"postgres://", "postgresql://", "sqlite:"} {
		if rest, ok := strings.CutPrefix(text, scheme); ok && rest != "" && !strings.ContainsFunc(rest, isControl) {
			return nil
		}
	}
	return errors.New("expected postgres://… or sqlite:PATH, without control characters")
}

func isControl(r rune) bool { return unicode.IsControl(r) }

// tidyList trims names and drops empty and repeated ones; letter case makes no
// difference, as names resolve in any.
func tidyList(names []string) []string {
	var tidy []string
	for _, name := range names {
		name = strings.TrimSpace(name)
		same := func(other string) bool { return strings.EqualFold(name, other) }
		if name != "" && !slices.ContainsFunc(tidy, same) {
			tidy = append(tidy, name)
		}
	}
	return tidy
}

// unknownVariables lists names with our prefix that are none of ours.
func unknownVariables(environ map[string]string) []string {
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(environ)) {
		known := func(v variable) bool { return v.name == name }
		if !strings.HasPrefix(name, "AUTOMATION_") || slices.ContainsFunc(variables, known) {
			continue
		}
		nearest := slices.MinFunc(variables, func(a, b variable) int { return distance(name, a.name) - distance(name, b.name) })
		if distance(name, nearest.name) <= len(name)/3 {
			name += " (did you mean " + nearest.name + "?)"
		}
		unknown = append(unknown, name)
	}
	return unknown
}

// distance is the Levenshtein distance of two names, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			swap := diagonal
			if a[i] != b[j] {
				swap++
			}
			diagonal = row[j+1]
			row[j+1] = min(swap, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

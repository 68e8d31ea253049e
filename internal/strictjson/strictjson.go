// Package strictjson decodes JSON that people write by hand or send to an API,
// and reports all errors in it, not only the first one.
//
//	var plan struct {
//		Stages []struct {
//			Hold *string `json:"hold"` // nil when absent
//		} `json:"stages"` // required
//		Notice string `json:"notice,omitzero"` // may be absent
//	}
//	err := strictjson.Unmarshal(data, &plan)
//	// line 3, column 7: stages[1].hold: must be a string; line 5, column 1: …
//
// Unlike encoding/json it rejects unknown and duplicate names, null, names in
// another letter case, missing fields, U+0000 and unpaired surrogates.
// docs/decisions/0008-one-strict-json-reader.md says why no library is used.
package strictjson

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Error is one error in a JSON text.
type Error struct {
	Line, Column int    // from 1; the column counts bytes
	Field        string // such as stages[0].hold; empty: the text as a whole
	Message      string // a predicate whose subject is the field, such as "is required"

	offset int
}

func (e *Error) Error() string {
	at := fmt.Sprintf("line %d, column %d: ", e.Line, e.Column)
	if e.Field == "" {
		return at + "the text " + e.Message
	}
	return at + e.Field + ": " + e.Message
}

// Errors are all errors of a text, at least one, in the order of their positions.
type Errors []*Error

// Error returns the first ten errors; a log line should not repeat a whole file.
func (es Errors) Error() string {
	const limit = 10
	var b strings.Builder
	for i, e := range es[:min(len(es), limit)] {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(e.Error())
	}
	if more := len(es) - limit; more > 0 {
		fmt.Fprintf(&b, "; and %d more", more)
	}
	return b.String()
}

// Unmarshal decodes data, which must be exactly one JSON value, into the variable
// that dst points to. Its error is an Errors; after an error dst must not be used.
//
// All exported fields of a struct need json tags. A field may be absent if its
// type is a pointer or its tag says omitzero or omitempty. A type with an
// UnmarshalJSON or UnmarshalText decodes its own values: an Errors that it returns
// is reported with the field's name in front, any other error as the message
// of that field. A variable of type any accepts every value, including null.
func Unmarshal(data []byte, dst any) error {
	var d decoder
	if err := check(data); err != nil {
		d.errs = Errors{err}
	} else {
		value, offset := trim(data)
		d.decodeValue(reflect.ValueOf(dst).Elem(), "", value, offset)
	}
	return d.result(data)
}

// Member is a name and its value in an object.
type Member struct {
	Name  string
	Value json.RawMessage
	Line  int // of the name, from 1

	rawName                 []byte // the name as it is written
	nameOffset, valueOffset int    // offsets
}

// Members splits data, which must be exactly one object, into its members, in their
// order and including duplicates. It does not check the values. Its error is an Errors;
// with a syntax error it also returns the members before the error.
func Members(data []byte) ([]Member, error) {
	d := decoder{}
	value, start := trim(data)
	err := check(data)
	switch {
	case err != nil:
		d.errs = Errors{err}
	case value[0] != '{':
		d.add("", start, wantObject)
	}
	var members []Member
	if len(value) > 0 && value[0] == '{' {
		members = splitObject(value, start)
	}
	line, offset := 1, 0
	for i := range members {
		line += strings.Count(string(data[offset:members[i].nameOffset]), "\n")
		offset = members[i].nameOffset
		members[i].Line = line
	}
	return members, d.result(data)
}

// Package strictjson decodes JSON that people write by hand or send to an API,
// and reports everything that is wrong with it, not only the first fault.
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
// Unlike encoding/json it refuses unknown and duplicate names, null, names in
// another letter case, missing fields, numbers that were rounded, U+0000 and
// unpaired surrogates. docs/decisions says why no library is used.
package strictjson

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Error is one fault in a JSON text.
type Error struct {
	Line, Column int    // from 1; the column counts bytes
	Field        string // such as stages[0].hold; empty: the text as a whole
	Message      string // continues a sentence that begins with the field

	offset int
}

func (e *Error) Error() string {
	at := fmt.Sprintf("line %d, column %d: ", e.Line, e.Column)
	if e.Field == "" {
		return at + "the text " + e.Message
	}
	return at + e.Field + ": " + e.Message
}

// Errors are all faults of a text, at least one, in the order in which they
// stand there.
type Errors []*Error

// Error gives the first ten; a log line should not repeat a whole file.
func (es Errors) Error() string {
	const shown = 10
	var b strings.Builder
	for i, e := range es[:min(len(es), shown)] {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(e.Error())
	}
	if more := len(es) - shown; more > 0 {
		fmt.Fprintf(&b, "; and %d more", more)
	}
	return b.String()
}

// Unmarshal reads the one JSON value that data holds into what dst points to.
// Its error is an Errors; dst is not to be used then.
//
// A struct's exported fields all have json tags. A field may be absent if its
// type is a pointer or its tag says omitzero or omitempty. A type with an
// UnmarshalJSON or UnmarshalText reads its own values: an Errors that it returns
// is reported with the field's name in front, any other error as the message
// of that field. An any takes every value, null too.
func Unmarshal(data []byte, dst any) error {
	var d decoder
	if err := check(data); err != nil {
		d.errs = Errors{err}
	} else {
		value, offset := trim(data)
		d.value(reflect.ValueOf(dst).Elem(), "", value, offset)
	}
	return d.result(data)
}

// Member is a name and its value in an object.
type Member struct {
	Name  string
	Value json.RawMessage
	Line  int // of the name, from 1

	raw         []byte // the name as it is written
	name, value int    // offsets
}

// Members splits the one object that data holds, in its own order, duplicates
// included, and does not look into the values. Its error is an Errors; the
// members before a syntax error are returned along with it.
func Members(data []byte) ([]Member, error) {
	d := decoder{}
	value, offset := trim(data)
	err := check(data)
	switch {
	case err != nil:
		d.errs = Errors{err}
	case value[0] != '{':
		d.add("", offset, wantObject)
	}
	var members []Member
	if len(value) > 0 && value[0] == '{' {
		members = split(value, offset)
	}
	line, at := 1, 0
	for i := range members {
		line += strings.Count(string(data[at:members[i].name]), "\n")
		at = members[i].name
		members[i].Line = line
	}
	return members, d.result(data)
}

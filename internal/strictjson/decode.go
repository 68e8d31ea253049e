package strictjson

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// maxName bounds how many bytes of a name that was sent are repeated.
const maxName = 80

const wantObject = "must be an object"

// decoder collects what is wrong with a text.
type decoder struct{ errs Errors }

func (d *decoder) add(field string, offset int, message string) {
	d.errs = append(d.errs, &Error{Field: field, Message: message, offset: offset})
}

// result returns the errors with their positions in data, or nil.
func (d *decoder) result(data []byte) error {
	if d.errs == nil {
		return nil
	}
	slices.SortStableFunc(d.errs, func(a, b *Error) int { return cmp.Compare(a.offset, b.offset) })
	for _, e := range d.errs {
		before := data[:e.offset]
		e.Line = 1 + bytes.Count(before, []byte("\n"))
		e.Column = e.offset - bytes.LastIndexByte(before, '\n')
	}
	return d.errs
}

// value reads the valid JSON in raw, which stands at offset, into dst.
func (d *decoder) value(dst reflect.Value, field string, raw []byte, offset int) {
	if raw[0] == 'n' && dst.Kind() != reflect.Interface {
		d.add(field, offset, "must not be null")
		return
	}
	if dst.Kind() == reflect.Pointer {
		dst.Set(reflect.New(dst.Type().Elem()))
		dst = dst.Elem()
	}
	switch own := dst.Addr().Interface().(type) {
	case json.Unmarshaler:
		if d.checkWithin(field, raw, offset) {
			d.addOwn(field, offset, own.UnmarshalJSON(raw))
		}
		return
	case encoding.TextUnmarshaler:
		if s, ok := d.text(field, raw, offset); ok {
			d.addOwn(field, offset, own.UnmarshalText([]byte(s)))
		}
		return
	}
	switch dst.Kind() {
	case reflect.Struct:
		d.structure(dst, field, raw, offset)
	case reflect.Map:
		d.mapping(dst, field, raw, offset)
	case reflect.Slice:
		d.slice(dst, field, raw, offset)
	case reflect.Interface:
		if d.checkWithin(field, raw, offset) {
			d.addOwn(field, offset, json.Unmarshal(raw, dst.Addr().Interface()))
		}
	default:
		d.scalar(dst, field, raw, offset)
	}
}

// addOwn reports the error of a type that read its own value.
func (d *decoder) addOwn(field string, offset int, err error) {
	if err == nil {
		return
	}
	inner, ok := errors.AsType[Errors](err)
	if !ok {
		d.add(field, offset, err.Error())
		return
	}
	for _, e := range inner {
		d.add(join(field, e.Field), offset+e.offset, e.Message)
	}
}

func (d *decoder) scalar(dst reflect.Value, field string, raw []byte, offset int) {
	var message string
	var err error
	switch kind := dst.Kind(); {
	case kind == reflect.Bool:
		if message = "must be true or false"; raw[0] == 't' || raw[0] == 'f' {
			dst.SetBool(raw[0] == 't')
			return
		}
	case dst.CanInt():
		var n int64
		if n, err = strconv.ParseInt(string(raw), 10, dst.Type().Bits()); err == nil {
			dst.SetInt(n)
			return
		}
		message = "must be a whole number, written without point, exponent or quotes"
	case dst.CanFloat():
		var x float64
		if raw[0] == '-' || '0' <= raw[0] && raw[0] <= '9' {
			if x, err = strconv.ParseFloat(string(raw), dst.Type().Bits()); err == nil {
				dst.SetFloat(x)
				return
			}
		}
		message = "must be a number"
	case kind == reflect.String:
		if s, ok := d.text(field, raw, offset); ok {
			dst.SetString(s)
		}
		return
	default:
		panic(fmt.Sprintf("strictjson: a %v cannot be decoded", dst.Type()))
	}
	if errors.Is(err, strconv.ErrRange) {
		message = "is out of range"
	}
	d.add(field, offset, message)
}

// text reads a string, or reports why it is none.
func (d *decoder) text(field string, raw []byte, offset int) (s string, ok bool) {
	if raw[0] != '"' {
		d.add(field, offset, "must be a string")
		return "", false
	}
	if message := badEscape(raw); message != "" {
		d.add(field, offset, message)
		return "", false
	}
	_ = json.Unmarshal(raw, &s) // it is valid
	return s, true
}

func (d *decoder) structure(dst reflect.Value, field string, raw []byte, offset int) {
	members, ok := d.members(field, raw, offset)
	if !ok {
		return
	}
	fields := make(map[string]reflect.Value, dst.NumField())
	for i := range dst.NumField() {
		f := dst.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		name, flags, tagged := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			panic(fmt.Sprintf("strictjson: %v.%s has no name in a json tag", dst.Type(), f.Name))
		}
		fields[name] = dst.Field(i)
		given := slices.ContainsFunc(members, func(m Member) bool { return m.Name == name })
		mayBeAbsent := f.Type.Kind() == reflect.Pointer || tagged && (strings.Contains(flags, "omitzero") || strings.Contains(flags, "omitempty"))
		if !given && !mayBeAbsent {
			d.add(join(field, name), offset, "is required")
		}
	}
	for _, m := range members {
		if target, known := fields[m.Name]; known {
			d.value(target, join(field, m.Name), m.Value, m.value)
		} else {
			d.add(join(field, shown(m.Name)), m.name, "is unknown")
		}
	}
}

func (d *decoder) mapping(dst reflect.Value, field string, raw []byte, offset int) {
	members, ok := d.members(field, raw, offset)
	if !ok {
		return
	}
	dst.Set(reflect.MakeMapWithSize(dst.Type(), len(members)))
	for _, m := range members {
		item := reflect.New(dst.Type().Elem()).Elem()
		d.value(item, join(field, shown(m.Name)), m.Value, m.value)
		dst.SetMapIndex(reflect.ValueOf(m.Name).Convert(dst.Type().Key()), item)
	}
}

func (d *decoder) slice(dst reflect.Value, field string, raw []byte, offset int) {
	if raw[0] != '[' {
		d.add(field, offset, "must be a list")
		return
	}
	dst.Set(reflect.MakeSlice(dst.Type(), 0, 0))
	for i, e := range elements(raw, offset) {
		item := reflect.New(dst.Type().Elem()).Elem()
		d.value(item, fmt.Sprintf("%s[%d]", field, i), e.Value, e.value)
		dst.Set(reflect.Append(dst, item))
	}
}

// members splits an object and reports the names that are there twice, of
// which it returns the first.
func (d *decoder) members(field string, raw []byte, offset int) (members []Member, ok bool) {
	if raw[0] != '{' {
		d.add(field, offset, wantObject)
		return nil, false
	}
	times := make(map[string]int)
	for _, m := range split(raw, offset) {
		message := badEscape(m.raw)
		if times[m.Name]++; message == "" && times[m.Name] == 2 {
			message = "is there twice"
		}
		switch {
		case message != "":
			d.add(join(field, shown(m.Name)), m.name, message)
		case times[m.Name] == 1:
			members = append(members, m)
		}
	}
	return members, true
}

// checkWithin reports what is wrong with a value whatever its type: duplicate
// names and characters that cannot be stored.
func (d *decoder) checkWithin(field string, raw []byte, offset int) bool {
	before := len(d.errs)
	switch raw[0] {
	case '{':
		members, _ := d.members(field, raw, offset)
		for _, m := range members {
			d.checkWithin(join(field, shown(m.Name)), m.Value, m.value)
		}
	case '[':
		for i, e := range elements(raw, offset) {
			d.checkWithin(fmt.Sprintf("%s[%d]", field, i), e.Value, e.value)
		}
	case '"':
		_, _ = d.text(field, raw, offset)
	}
	return len(d.errs) == before
}

// elements splits a list that stands at offset.
func elements(list []byte, offset int) (all []Member) {
	d := json.NewDecoder(bytes.NewReader(list))
	_, _ = d.Token()
	for d.More() {
		var value json.RawMessage
		_ = d.Decode(&value) // it is valid
		all = append(all, Member{Value: value, value: offset + int(d.InputOffset()) - len(value)})
	}
	return all
}

// shown is what an error repeats of a name that was sent.
func shown(name string) string {
	if name == "" {
		return `""`
	}
	return text.Truncate(name, maxName)
}

// join appends a name, or an index in brackets, to the path of a field.
func join(field, name string) string {
	if field == "" || name == "" || name[0] == '[' {
		return field + name
	}
	return field + "." + name
}

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

// maxName limits how many bytes of an unknown name an error repeats.
const maxName = 80

const wantObject = "must be an object"

// decoder collects the errors of a text.
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

// decodeValue decodes the valid JSON in raw into dst. field is the value's path, and
// offset its position in the text.
func (d *decoder) decodeValue(dst reflect.Value, field string, raw []byte, offset int) {
	if raw[0] == 'n' && dst.Kind() != reflect.Interface {
		d.add(field, offset, "must not be null")
		return
	}
	if dst.Kind() == reflect.Pointer {
		dst.Set(reflect.New(dst.Type().Elem()))
		dst = dst.Elem()
	}
	switch unmarshaler := dst.Addr().Interface().(type) {
	case json.Unmarshaler:
		if d.checkAny(field, raw, offset) {
			d.addUnmarshalError(field, offset, unmarshaler.UnmarshalJSON(raw))
		}
		return
	case encoding.TextUnmarshaler:
		if s, ok := d.decodeString(field, raw, offset); ok {
			d.addUnmarshalError(field, offset, unmarshaler.UnmarshalText([]byte(s)))
		}
		return
	}
	switch dst.Kind() {
	case reflect.Struct:
		d.decodeStruct(dst, field, raw, offset)
	case reflect.Map:
		d.decodeMap(dst, field, raw, offset)
	case reflect.Slice:
		d.decodeSlice(dst, field, raw, offset)
	case reflect.Interface:
		if d.checkAny(field, raw, offset) {
			d.addUnmarshalError(field, offset, json.Unmarshal(raw, dst.Addr().Interface()))
		}
	default:
		d.decodeScalar(dst, field, raw, offset)
	}
}

// addUnmarshalError adds the error of a value's own UnmarshalJSON or UnmarshalText.
func (d *decoder) addUnmarshalError(field string, offset int, err error) {
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

func (d *decoder) decodeScalar(dst reflect.Value, field string, raw []byte, offset int) {
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
		if s, ok := d.decodeString(field, raw, offset); ok {
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

// decodeString returns a string, or false after it has added an error.
func (d *decoder) decodeString(field string, raw []byte, offset int) (s string, ok bool) {
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

func (d *decoder) decodeStruct(dst reflect.Value, field string, raw []byte, offset int) {
	members, ok := d.uniqueMembers(field, raw, offset)
	if !ok {
		return
	}
	fields := make(map[string]reflect.Value, dst.NumField())
	for i := range dst.NumField() {
		f := dst.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		name, flags, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			panic(fmt.Sprintf("strictjson: %v.%s has no name in a json tag", dst.Type(), f.Name))
		}
		fields[name] = dst.Field(i)
		isPresent := slices.ContainsFunc(members, func(m Member) bool { return m.Name == name })
		isOptional := f.Type.Kind() == reflect.Pointer || strings.Contains(flags, "omitzero") || strings.Contains(flags, "omitempty")
		if !isPresent && !isOptional {
			d.add(join(field, name), offset, "is required")
		}
	}
	for _, m := range members {
		if target, known := fields[m.Name]; known {
			d.decodeValue(target, join(field, m.Name), m.Value, m.valueOffset)
		} else {
			d.add(join(field, displayName(m.Name)), m.nameOffset, "is unknown")
		}
	}
}

func (d *decoder) decodeMap(dst reflect.Value, field string, raw []byte, offset int) {
	members, ok := d.uniqueMembers(field, raw, offset)
	if !ok {
		return
	}
	dst.Set(reflect.MakeMapWithSize(dst.Type(), len(members)))
	for _, m := range members {
		item := reflect.New(dst.Type().Elem()).Elem()
		d.decodeValue(item, join(field, displayName(m.Name)), m.Value, m.valueOffset)
		dst.SetMapIndex(reflect.ValueOf(m.Name).Convert(dst.Type().Key()), item)
	}
}

func (d *decoder) decodeSlice(dst reflect.Value, field string, raw []byte, offset int) {
	if raw[0] != '[' {
		d.add(field, offset, "must be a list")
		return
	}
	dst.Set(reflect.MakeSlice(dst.Type(), 0, 0))
	for i, e := range splitList(raw, offset) {
		item := reflect.New(dst.Type().Elem()).Elem()
		d.decodeValue(item, fmt.Sprintf("%s[%d]", field, i), e.Value, e.valueOffset)
		dst.Set(reflect.Append(dst, item))
	}
}

// uniqueMembers splits an object and adds an error for each duplicate name. It returns
// the first member of each name, or false if the value is not an object.
func (d *decoder) uniqueMembers(field string, raw []byte, offset int) (members []Member, ok bool) {
	if raw[0] != '{' {
		d.add(field, offset, wantObject)
		return nil, false
	}
	counts := make(map[string]int)
	for _, m := range splitObject(raw, offset) {
		message := badEscape(m.rawName)
		if counts[m.Name]++; message == "" && counts[m.Name] == 2 {
			message = "is duplicated"
		}
		switch {
		case message != "":
			d.add(join(field, displayName(m.Name)), m.nameOffset, message)
		case counts[m.Name] == 1:
			members = append(members, m)
		}
	}
	return members, true
}

// checkAny checks a value of any type for duplicate names and for characters that
// cannot be stored. It reports whether there are none.
func (d *decoder) checkAny(field string, raw []byte, offset int) bool {
	before := len(d.errs)
	switch raw[0] {
	case '{':
		members, _ := d.uniqueMembers(field, raw, offset)
		for _, m := range members {
			d.checkAny(join(field, displayName(m.Name)), m.Value, m.valueOffset)
		}
	case '[':
		for i, e := range splitList(raw, offset) {
			d.checkAny(fmt.Sprintf("%s[%d]", field, i), e.Value, e.valueOffset)
		}
	case '"':
		_, _ = d.decodeString(field, raw, offset)
	}
	return len(d.errs) == before
}

// splitList returns the elements of a list, as members without names. offset is where the
// list starts in the text.
func splitList(list []byte, offset int) (all []Member) {
	d := json.NewDecoder(bytes.NewReader(list))
	_, _ = d.Token()
	for d.More() {
		var value json.RawMessage
		_ = d.Decode(&value) // it is valid
		all = append(all, Member{Value: value, valueOffset: offset + int(d.InputOffset()) - len(value)})
	}
	return all
}

// displayName returns a name from the text as an error repeats it.
func displayName(name string) string {
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

package mapping

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// MaxFileSize bounds model_mappings.json, in bytes: 8 MiB, some 80,000 names.
const MaxFileSize = 8 << 20

// Problem is one complaint about model_mappings.json.
type Problem struct {
	Line    int    // from 1; 0 for the file as a whole
	Name    string // the entry's name, or empty
	Message string
}

func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Name != "" {
		fmt.Fprintf(&b, "%q: ", excerpt(p.Name))
	}
	return b.String() + p.Message
}

// ParseError holds everything that is wrong with the file, by line.
type ParseError struct {
	Problems []Problem
}

// Error gives the first 10 problems; a log line should not hold a whole file.
func (e *ParseError) Error() string {
	const shown = 10
	var b strings.Builder
	for i, p := range e.Problems[:min(len(e.Problems), shown)] {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p.String())
	}
	if more := len(e.Problems) - shown; more > 0 {
		fmt.Fprintf(&b, "; and %d more", more)
	}
	return b.String()
}

// Parse reads the text of model_mappings.json: one flat JSON object from names
// to model ids, with an entry named "default".
//
// Hex digits of an id may be in either case, the table holds them in lower
// case. The value "default" stands for whatever the default maps to. Names are
// distinct in any letter case, have 1 to [MaxName] bytes, printing characters
// only, no space at either end, and do not look like an id.
//
// The error is a [*ParseError] with every problem there is; of text that is not
// JSON, every problem up to the fault, and the fault.
func Parse(data []byte) (*Table, error) {
	f, err := parseFile(data)
	if err != nil {
		return nil, fmt.Errorf("mapping: parse: %w", err)
	}
	return build(f, nil), nil
}

// Load reads and parses a file as [Parse] does, at most [MaxFileSize] bytes of it.
func Load(path string) (*Table, error) {
	f, err := loadFile(path)
	if err != nil {
		return nil, err
	}
	return build(f, nil), nil
}

// file is model_mappings.json as it was read. Its models have no type yet, and
// are sorted by their folded names.
type file struct {
	models    []Model
	defaultID string
}

func loadFile(path string) (file, error) {
	data, err := readFile(path, MaxFileSize)
	if err != nil {
		return file{}, err
	}
	return parseNamed(path, data)
}

func parseNamed(path string, data []byte) (file, error) {
	f, err := parseFile(data)
	if err != nil {
		return file{}, fmt.Errorf("mapping: load(%s): %w", path, err)
	}
	return f, nil
}

// readFile reads a regular file, at most one byte more than limit.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path) // a pipe would block in Open
	if err != nil {
		return nil, fmt.Errorf("mapping: load: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("mapping: load(%s): not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("mapping: load: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("mapping: load: %w", err)
	}
	return data, nil
}

func parseFile(data []byte) (file, error) {
	if len(data) > MaxFileSize {
		return file{}, &ParseError{Problems: []Problem{{Message: fmt.Sprintf("the file is larger than %d bytes", MaxFileSize)}}}
	}
	p := parser{data: bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), line: 1, seen: make(map[string]*entry)}
	p.checkSyntax()
	p.readObject()
	f := p.finish()
	if len(p.problems) > 0 {
		slices.SortStableFunc(p.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
		return file{}, &ParseError{Problems: p.problems}
	}
	return f, nil
}

// parser reads tokens, because a decoder into a map loses duplicates and lines.
type parser struct {
	data     []byte
	line     int // of the byte at offset
	offset   int
	broken   bool // not JSON
	entries  []*entry
	seen     map[string]*entry // by folded name
	problems []Problem
}

type entry struct {
	Model
	key  string // the folded name
	line int
}

func (p *parser) complain(line int, name, format string, args ...any) {
	p.problems = append(p.problems, Problem{Line: line, Name: name, Message: fmt.Sprintf(format, args...)})
}

// checkSyntax complains of text that is not one JSON value, at the exact line.
// What stands before the fault is still read for its own problems.
func (p *parser) checkSyntax() {
	var text json.RawMessage
	err := json.Unmarshal(p.data, &text)
	if fault, ok := errors.AsType[*json.SyntaxError](err); ok {
		p.broken = true
		before := p.data[:max(0, min(int(fault.Offset), len(p.data))-1)]
		p.complain(1+bytes.Count(before, []byte("\n")), "", "not valid JSON: %v", fault)
	}
}

func (p *parser) readObject() {
	dec := json.NewDecoder(bytes.NewReader(p.data))
	open, err := dec.Token()
	if err != nil {
		return // checkSyntax has complained
	}
	if open != json.Delim('{') {
		p.complain(p.lineAt(int(dec.InputOffset())), "", "the file must be one JSON object of names and ids")
		return
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return
		}
		name, _ := token.(string)
		line := p.lineAt(int(dec.InputOffset()))
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return
		}
		p.add(line, name, value)
	}
}

// lineAt returns the line of an offset that never goes back.
func (p *parser) lineAt(offset int) int {
	p.line += bytes.Count(p.data[p.offset:offset], []byte("\n"))
	p.offset = offset
	return p.line
}

func (p *parser) add(line int, name string, value json.RawMessage) {
	e := &entry{Model: Model{Name: name, Match: ByName}, key: foldString(name), line: line}
	if complaint := checkName(name); complaint != "" {
		p.complain(line, name, "%s", complaint)
	}
	first, duplicate := p.seen[e.key]
	switch {
	case duplicate && first.Name == name:
		p.complain(line, name, "the name is on line %d already", first.line)
	case duplicate:
		p.complain(line, name, "the name differs only in letter case from %q on line %d", excerpt(first.Name), first.line)
	default:
		p.seen[e.key] = e
	}
	p.entries = append(p.entries, e)

	var text string
	if value[0] != '"' || json.Unmarshal(value, &text) != nil {
		p.complain(line, name, "the value must be a string, not %s", kind(value))
		return
	}
	id, ok := parseID(text)
	switch {
	case ok:
		e.ID = id
	case !strings.EqualFold(text, defaultName):
		p.complain(line, name, "the value %q is no model id (0x and 64 hex digits), nor \"default\"", excerpt(text))
	case e.key == defaultName:
		p.complain(line, name, "the default maps to itself; give it a model id")
	default:
		e.Match = ByDefault
	}
}

func kind(value json.RawMessage) string {
	switch value[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f', 'n':
		return string(value)
	}
	return "a number"
}

// finish checks the object as a whole.
func (p *parser) finish() file {
	byDefault, ok := p.seen[defaultName]
	switch {
	case !ok && p.broken, len(p.problems) > 0 && len(p.entries) == 0:
		return file{} // the rest of the file may have it
	case len(p.entries) == 0:
		p.complain(0, "", "the table is empty")
		return file{}
	case !ok:
		p.complain(0, "", "there is no entry named \"default\"")
		return file{}
	}
	f := file{defaultID: byDefault.ID}
	slices.SortFunc(p.entries, func(a, b *entry) int { return strings.Compare(a.key, b.key) })
	for _, e := range p.entries {
		if e.key == defaultName {
			continue
		}
		if e.Match == ByDefault {
			e.ID = f.defaultID
		}
		f.models = append(f.models, e.Model)
	}
	return f
}

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

	"github.com/MorpheusAIs/gateway-automation/internal/strictjson"
)

// maxFileSize is the largest model_mappings.json, in bytes: 8 MiB, about 80,000
// names.
const maxFileSize = 8 << 20

// Problem is one error in model_mappings.json.
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

// ParseError holds every problem of the file, sorted by line.
type ParseError struct {
	Problems []Problem
}

// Error returns the first 10 problems, so that it fits a log line.
func (e *ParseError) Error() string {
	const limit = 10
	var b strings.Builder
	for i, p := range e.Problems[:min(len(e.Problems), limit)] {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p.String())
	}
	if more := len(e.Problems) - limit; more > 0 {
		fmt.Fprintf(&b, "; and %d more", more)
	}
	return b.String()
}

// Load reads model_mappings.json, a regular file of at most 8 MiB: one flat JSON
// object from names to model ids, with an entry named "default".
//
// Hex digits of an id may be in either case; the table holds them in lower
// case. The value "default" means the id of the default. Names have 1 to 256
// bytes, only printing characters, no space at either end, and do not look like an
// id. No two names differ only in letter case. If an id has several names, the
// first is the model's canonical name.
//
// If the file can be read but is invalid, the error is a [*ParseError] with every
// problem. For text that is not JSON these are the problems before the syntax
// error, and the syntax error.
func Load(path string) (*Table, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	f, err := parseNamed(path, data)
	if err != nil {
		return nil, err
	}
	return build(f, nil, nil), nil
}

// file is the content of model_mappings.json, in its order. Its models have no
// types yet.
type file struct {
	models    []Model
	defaultID string
}

// parseNamed is parseFile with the path in its error.
func parseNamed(path string, data []byte) (file, error) {
	f, err := parseFile(data)
	if err != nil {
		return file{}, fmt.Errorf("mapping: load(%s): %w", path, err)
	}
	return f, nil
}

// readFile reads a regular file. Of a file that is too large it returns one byte
// more than maxFileSize.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path) // first, because opening a pipe would block
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
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("mapping: load: %w", err)
	}
	return data, nil
}

func parseFile(data []byte) (file, error) {
	if len(data) > maxFileSize {
		return file{}, &ParseError{Problems: []Problem{{Message: fmt.Sprintf("the file is larger than %d bytes", maxFileSize)}}}
	}
	p := parser{seen: make(map[string]*entry)}
	members, err := strictjson.Members(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	for _, m := range members {
		p.add(m.Line, m.Name, m.Value)
	}
	if faults, ok := errors.AsType[strictjson.Errors](err); ok {
		p.hasSyntaxError = true
		for _, fault := range faults {
			p.addProblem(fault.Line, "", "the file %s", fault.Message)
		}
	}
	f := p.finish()
	if len(p.problems) > 0 {
		slices.SortStableFunc(p.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
		return file{}, &ParseError{Problems: p.problems}
	}
	return f, nil
}

type parser struct {
	hasSyntaxError bool
	entries        []*entry
	seen           map[string]*entry // by folded name
	problems       []Problem
}

type entry struct {
	Model
	key  string // the folded name
	line int
}

func (p *parser) addProblem(line int, name, format string, args ...any) {
	p.problems = append(p.problems, Problem{Line: line, Name: name, Message: fmt.Sprintf(format, args...)})
}

// add adds an entry of the object, and the problems of its name and its value.
func (p *parser) add(line int, name string, value json.RawMessage) {
	e := &entry{Model: Model{Name: name, Match: matchName}, key: foldString(name), line: line}
	if problem := checkName(name); problem != "" {
		p.addProblem(line, name, "%s", problem)
	}
	first, isDuplicate := p.seen[e.key]
	switch {
	case isDuplicate && first.Name == name:
		p.addProblem(line, name, "the name is already on line %d", first.line)
	case isDuplicate:
		p.addProblem(line, name, "the name differs only in letter case from %q on line %d", excerpt(first.Name), first.line)
	default:
		p.seen[e.key] = e
	}
	p.entries = append(p.entries, e)

	var text string
	if value[0] != '"' || json.Unmarshal(value, &text) != nil {
		p.addProblem(line, name, "the value must be a string, not %s", kind(value))
		return
	}
	id, ok := parseID(text)
	switch {
	case ok:
		e.ID = id
	case !strings.EqualFold(text, defaultName):
		p.addProblem(line, name, "the value %q is neither a model id (0x and 64 hex digits) nor \"default\"", excerpt(text))
	case e.key == defaultName:
		p.addProblem(line, name, "the default maps to itself; give it a model id")
	default:
		e.Match = matchDefault
	}
}

// kind returns what a JSON value is, for an error.
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

// finish validates the object as a whole and returns it.
func (p *parser) finish() file {
	defaultEntry, hasDefault := p.seen[defaultName]
	switch {
	case !hasDefault && p.hasSyntaxError:
		return file{} // the unread rest of the file may have the default
	case len(p.entries) == 0 && len(p.problems) > 0:
		return file{} // the problems say why there are no entries
	case len(p.entries) == 0:
		p.addProblem(0, "", "the table is empty")
		return file{}
	case !hasDefault:
		p.addProblem(0, "", "there is no entry named \"default\"")
		return file{}
	}
	f := file{defaultID: defaultEntry.ID}
	for _, e := range p.entries {
		if e.key == defaultName {
			continue
		}
		if e.Match == matchDefault {
			e.ID = f.defaultID
		}
		f.models = append(f.models, e.Model)
	}
	return f
}

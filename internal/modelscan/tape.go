package modelscan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

const (
	firstReel = 4 << 10
	lastReel  = 1 << 20
)

// tape reads from source and keeps what it read. It grows by reels, each as
// long as all before it, so that nothing is copied.
type tape struct {
	source io.Reader
	limit  int64
	size   int64
	reels  [][]byte
	fresh  []byte // read, but not yet handed out
	err    error  // what ended reading
}

// next returns the bytes that one more read gives, at least one, or an error.
func (t *tape) next() ([]byte, error) {
	if fresh := t.fresh; len(fresh) > 0 {
		t.fresh = nil
		return fresh, nil
	}
	if t.size > t.limit {
		return nil, ErrTooLarge
	}
	last := len(t.reels) - 1
	if last < 0 || len(t.reels[last]) == cap(t.reels[last]) {
		length := min(max(t.size, firstReel), lastReel)
		if left := t.limit - t.size; left < length {
			length = left + 1
		}
		t.reels = append(t.reels, make([]byte, 0, length))
		last++
	}
	reel := t.reels[last]
	for range 100 {
		if t.err != nil {
			return nil, t.err
		}
		var n int
		n, t.err = t.source.Read(reel[len(reel):cap(reel)])
		if n == 0 {
			continue
		}
		t.reels[last] = reel[:len(reel)+n]
		t.size += int64(n)
		if t.size > t.limit { // the byte too many is kept, and not looked at
			n--
		}
		if n == 0 {
			return nil, ErrTooLarge
		}
		return reel[len(reel) : len(reel)+n], nil
	}
	t.err = io.ErrNoProgress
	return nil, t.err
}

// Read makes the tape a reader, for forms.
func (t *tape) Read(p []byte) (int, error) {
	fresh, err := t.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, fresh)
	t.fresh = fresh[n:]
	return n, nil
}

// blame decides whose fault an error is: the reader's, the limit's or, if
// neither, the body's.
func (t *tape) blame(err error) error {
	switch {
	case errors.Is(err, ErrTooLarge):
		return ErrTooLarge
	case t.err != nil && t.err != io.EOF: //nolint:errorlint // io.Reader's contract
		return t.err
	}
	return fmt.Errorf("%w: %w", ErrSyntax, err)
}

// replay returns what was read, and what comes after it.
func (t *tape) replay(rest io.Reader) io.Reader {
	readers := make([]io.Reader, 0, len(t.reels)+1)
	for _, reel := range t.reels {
		readers = append(readers, bytes.NewReader(reel))
	}
	t.reels, t.fresh = nil, nil // MultiReader lets go of each reel when it has been read
	if t.err != nil {
		rest = failed{t.err}
	}
	return io.MultiReader(append(readers, rest)...)
}

// failed is a reader after its end.
type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

package mapping

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	minSimilarity  = 0.72 // of a suggestion
	maxSuggestions = 5
)

// candidate is a possible suggestion: Model.Name is suggested if the requested
// name is similar to key.
type candidate struct {
	key string // a slug
	Model
}

// notFound returns the error for a name that no model has. It compares the name
// with all candidates, unless the name is invalid or longer than maxName.
func (t *Table) notFound(name string, want Type) *NotFoundError {
	err := &NotFoundError{Name: strings.ToValidUTF8(name[:min(len(name), maxName)], "")}
	if len(name) > maxName || !utf8.ValidString(name) {
		return err
	}
	key := slugString(foldString(strings.TrimSpace(name)))
	patterns := []*pattern{newPattern(key)}
	for _, suffix := range []string{"-instruct-turbo", "-turbo"} {
		if stem, ok := strings.CutSuffix(key, suffix); ok {
			patterns = append(patterns, newPattern(stem))
			break
		}
	}

	type scored struct {
		*candidate
		score float64
	}
	var similar []scored
	for i := range t.candidates {
		c := &t.candidates[i]
		var score float64
		for _, p := range patterns {
			score = max(score, p.similarity(c.key))
		}
		if score >= minSimilarity {
			similar = append(similar, scored{c, score})
		}
	}
	slices.SortFunc(similar, func(a, b scored) int {
		if fits := a.serves(want); fits != b.serves(want) {
			if fits {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.score, a.score), strings.Compare(a.Name, b.Name))
	})
	suggested := make(map[string]bool) // by id, to suggest each model once
	for _, c := range similar {
		if len(err.Suggestions) == maxSuggestions {
			break
		}
		if !suggested[c.ID] {
			suggested[c.ID] = true
			err.Suggestions = append(err.Suggestions, c.Name)
		}
	}
	return err
}

// pattern is a string prepared for comparison with many others.
type pattern struct {
	length    int
	words     int                       // of 64 bits, for length bits
	positions [256][maxName / 64]uint64 // for each byte value, the bits of its positions
}

func newPattern(s string) *pattern {
	p := &pattern{length: len(s), words: (len(s) + 63) / 64}
	for i := range len(s) {
		p.positions[s[i]][i/64] |= 1 << (i % 64)
	}
	return p
}

// similarity is twice the length of the longest common subsequence, divided by the
// sum of both lengths: 1 for equal strings, 0 for strings without a common byte.
// If it cannot reach minSimilarity, the result is 0. Hyyrö's bit-parallel
// algorithm counts the subsequence 64 cells at a time, so that 10,000 names take
// about a millisecond.
func (p *pattern) similarity(s string) float64 {
	total := float64(p.length + len(s))
	if upperBound := 2 * float64(min(p.length, len(s))) / total; !(upperBound >= minSimilarity) { // true for NaN, of two empty strings
		return 0
	}
	var row [maxName / 64]uint64 // a cleared bit is a match
	for w := range row {
		row[w] = ^uint64(0)
	}
	for i := range len(s) {
		positions := &p.positions[s[i]]
		var carry uint64
		for w := range p.words {
			match := row[w] & positions[w]
			var sum uint64
			sum, carry = bits.Add64(row[w], match, carry)
			row[w] = sum | row[w]&^match
		}
	}
	common := 0
	for _, word := range row {
		common += bits.OnesCount64(^word)
	}
	return 2 * float64(common) / total
}

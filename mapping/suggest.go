package mapping

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	minSimilarity  = 0.72
	maxSuggestions = 5
)

// candidate is what may be suggested: Model.Name, to who asks for something like key.
type candidate struct {
	key string // a slug
	Model
}

// notFound looks for near misses: one pass over the names, for valid names of
// at most maxName bytes only.
func (t *Table) notFound(name string, want Type) *NotFoundError {
	err := &NotFoundError{Name: strings.ToValidUTF8(name[:min(len(name), maxName)], "")}
	if len(name) > maxName || !utf8.ValidString(name) {
		return err
	}
	asked := slugString(foldString(strings.TrimSpace(name)))
	patterns := []*pattern{newPattern(asked)}
	for _, suffix := range []string{"-instruct-turbo", "-turbo"} {
		if stem, ok := strings.CutSuffix(asked, suffix); ok {
			patterns = append(patterns, newPattern(stem))
			break
		}
	}

	type scored struct {
		*candidate
		score float64
	}
	var near []scored
	for i := range t.near {
		c := &t.near[i]
		var score float64
		for _, p := range patterns {
			score = max(score, p.similarity(c.key))
		}
		if score >= minSimilarity {
			near = append(near, scored{c, score})
		}
	}
	slices.SortFunc(near, func(a, b scored) int {
		if fits := a.serves(want); fits != b.serves(want) {
			if fits {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.score, a.score), strings.Compare(a.Name, b.Name))
	})
	suggested := make(map[string]bool) // ids: five names of one model help nobody
	for _, c := range near {
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

// pattern is a string prepared for comparison with many others: for each byte
// value, a bit at each place where it stands.
type pattern struct {
	length int
	words  int
	places [256][maxName / 64]uint64
}

func newPattern(s string) *pattern {
	p := &pattern{length: len(s), words: (len(s) + 63) / 64}
	for i := range len(s) {
		p.places[s[i]][i/64] |= 1 << (i % 64)
	}
	return p
}

// similarity is 1 for equal strings and 0 for strings without a common byte:
// twice the length of the longest common subsequence over both lengths. The
// subsequence is counted 64 cells at a time (Hyyrö's bit-parallel algorithm),
// which needs no library and makes 10,000 names a matter of a millisecond.
func (p *pattern) similarity(s string) float64 {
	total := float64(p.length + len(s))
	if best := 2 * float64(min(p.length, len(s))) / total; !(best >= minSimilarity) {
		return 0
	}
	var row [maxName / 64]uint64 // a cleared bit is a match
	for w := range row {
		row[w] = ^uint64(0)
	}
	for i := range len(s) {
		places := &p.places[s[i]]
		var carry uint64
		for w := range p.words {
			match := row[w] & places[w]
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

package flags

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
)

// packed is a set of texts in two pieces of memory without pointers: looking
// one up misses the processor's caches twice at most, not the four times of a
// map of strings, a million cost the garbage collector nothing, and an id takes
// 13 bytes beside its own.
type packed struct {
	seed maphash.Seed
	text string // the ids, each after its length as a varint
	n    int
	// slots is a hash table with open addressing, two thirds full. A slot is
	// 0, or 24 bits of the id's hash above the 40 bits of 1 + its place in text.
	slots []uint64
}

const placeBits = 40

// appendID is how text is made.
func appendID(text []byte, id string) []byte {
	return append(binary.AppendUvarint(text, uint64(len(id))), id...)
}

// pack is the set of the n ids in text, of which some may be the same.
func pack(text []byte, n int) IDs {
	if n == 0 {
		return IDs{}
	}
	p := &packed{seed: maphash.MakeSeed(), text: string(text), slots: make([]uint64, n+n/2+1)}
	for place := 0; place < len(p.text); {
		id, next := p.at(place)
		hash := maphash.String(p.seed, id)
		if i, found := p.find(id, hash); !found {
			p.slots[i] = hash<<placeBits | uint64(place+1)
			p.n++
		}
		place = next
	}
	return IDs{p}
}

// at is the id at a place in text, and the place of the next.
func (p *packed) at(place int) (id string, next int) {
	length := 0
	for shift := 0; ; shift += 7 {
		c := p.text[place]
		place++
		length |= int(c&0x7f) << shift
		if c < 0x80 {
			return p.text[place : place+length], place + length
		}
	}
}

func (p *packed) has(id string) bool {
	_, found := p.find(id, maphash.String(p.seed, id))
	return found
}

// find is the index of the slot that holds id, or of the one that it would take.
func (p *packed) find(id string, hash uint64) (i int, found bool) {
	high, _ := bits.Mul64(hash, uint64(len(p.slots))) // the hash's share of the slots
	for i = int(high); ; i++ {
		if i == len(p.slots) {
			i = 0
		}
		slot := p.slots[i]
		if slot == 0 {
			return i, false
		}
		if slot>>placeBits == hash&(1<<(64-placeBits)-1) {
			if at, _ := p.at(int(slot&(1<<placeBits-1)) - 1); at == id {
				return i, true
			}
		}
	}
}

// each calls yield with every id until that returns false.
func (p *packed) each(yield func(id string) bool) {
	for _, slot := range p.slots {
		if slot == 0 {
			continue
		}
		if id, _ := p.at(int(slot&(1<<placeBits-1)) - 1); !yield(id) {
			return
		}
	}
}

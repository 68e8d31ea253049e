package reqbody

import (
	"runtime"
	"sync"
)

const (
	largeBuffer = 1 << 20
	// maxGarbage is how many bytes of released large buffers may wait for the
	// garbage collector in addition to the budget.
	maxGarbage = 32 << 20
)

// A Budget bounds the memory that bodies take together. It is safe for
// concurrent use.
type Budget struct {
	limit int64

	mu      sync.Mutex
	used    int64
	garbage int64 // bytes of large buffers released since the last collection
}

// NewBudget returns a Budget of that many bytes.
func NewBudget(bytes int64) *Budget { return &Budget{limit: bytes} }

// Used returns how many bytes are reserved.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// reserve reserves n bytes and reports whether they were within the budget. The
// collector lets garbage grow to the size of the memory in use, which would amount to a
// second budget, so reserve starts it when released large buffers exceed maxGarbage.
func (b *Budget) reserve(n int64) bool {
	b.mu.Lock()
	if b.used+n > b.limit {
		b.mu.Unlock()
		return false
	}
	b.used += n
	collect := n >= largeBuffer && b.used+b.garbage > b.limit+maxGarbage
	if collect {
		b.garbage = 0
	}
	b.mu.Unlock()
	if collect {
		runtime.GC()
	}
	return true
}

func (b *Budget) release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if n >= largeBuffer {
		b.garbage += n
	}
}

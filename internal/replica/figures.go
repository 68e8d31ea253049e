package replica

import (
	"sync"
	"time"
)

// Figures count the chat requests of the last five minutes.
type Figures struct {
	Served int64            `json:"served"`
	Failed map[string]int64 `json:"failed,omitempty"` // by cause
	// Overhead counts the served requests by the time that automation added to them.
	// Its last count is of requests above all OverheadBounds.
	Overhead []int64 `json:"overhead,omitempty"`
}

// OverheadBounds are the upper bounds of the counts in Figures.Overhead.
var OverheadBounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}

// Add adds the figures of another process.
func (f *Figures) Add(g Figures) {
	f.Served += g.Served
	for cause, n := range g.Failed {
		if f.Failed == nil {
			f.Failed = map[string]int64{}
		}
		f.Failed[cause] += n
	}
	if len(g.Overhead) > len(f.Overhead) {
		f.Overhead = append(f.Overhead, make([]int64, len(g.Overhead)-len(f.Overhead))...)
	}
	for i, n := range g.Overhead {
		f.Overhead[i] += n
	}
}

// OverheadP95 estimates the 95th percentile of the time that automation added to served
// requests. Like Prometheus's histogram_quantile it interpolates between two bounds. It
// returns false if there was no request.
func (f Figures) OverheadP95() (time.Duration, bool) {
	var total, below int64
	for _, n := range f.Overhead {
		total += n
	}
	if total == 0 {
		return 0, false
	}
	rank := .95 * float64(total)
	low := time.Duration(0)
	for i, n := range f.Overhead[:min(len(f.Overhead), len(OverheadBounds))] {
		if high := OverheadBounds[i]; float64(below+n) >= rank {
			return low + time.Duration(float64(high-low)*(rank-float64(below))/float64(n)), true
		}
		below, low = below+n, OverheadBounds[i]
	}
	return low, true // beyond the last bound
}

// FiguresCounter counts Figures, in steps of ten seconds. It is safe for
// concurrent use.
type FiguresCounter struct {
	mu      sync.Mutex
	figures recent[Figures]
}

// NewFiguresCounter returns a FiguresCounter that reads the given clock.
func NewFiguresCounter(now func() time.Time) *FiguresCounter {
	return &FiguresCounter{figures: newRecent[Figures](5*time.Minute, now)}
}

// Served counts a request that was served. overhead is the time that automation added to it.
func (c *FiguresCounter) Served(overhead time.Duration) {
	i := 0
	for i < len(OverheadBounds) && overhead > OverheadBounds[i] {
		i++
	}
	c.update(func(f *Figures) {
		if f.Overhead == nil {
			f.Overhead = make([]int64, len(OverheadBounds)+1)
		}
		f.Served++
		f.Overhead[i]++
	})
}

// Failed counts a request that failed.
func (c *FiguresCounter) Failed(cause string) {
	c.update(func(f *Figures) { f.Add(Figures{Failed: map[string]int64{cause: 1}}) })
}

func (c *FiguresCounter) update(add func(*Figures)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add(c.figures.current())
}

// Figures returns the counts of the last five minutes, exact to one step.
func (c *FiguresCounter) Figures() (sum Figures) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.figures.each(func(f Figures) { sum.Add(f) })
	return sum
}

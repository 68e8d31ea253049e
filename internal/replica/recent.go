package replica

import "time"

const stepLength = 10 * time.Second

// recent holds one value for each ten-second step of the last minutes, including the
// current step. It is not safe for concurrent use.
type recent[T any] struct {
	now   func() time.Time
	steps []recentStep[T]
}

type recentStep[T any] struct {
	number int64 // steps since 1970
	value  T
}

func newRecent[T any](span time.Duration, now func() time.Time) recent[T] {
	return recent[T]{now, make([]recentStep[T], span/stepLength+1)}
}

func (r *recent[T]) number() int64 { return r.now().UnixNano() / int64(stepLength) }

// current returns the current step's value.
func (r *recent[T]) current() *T {
	number := r.number()
	s := &r.steps[number%int64(len(r.steps))]
	if s.number != number {
		*s = recentStep[T]{number: number}
	}
	return &s.value
}

// each calls fn with the value of each step within the span.
func (r *recent[T]) each(fn func(T)) {
	oldest := r.number() - int64(len(r.steps))
	for _, s := range r.steps {
		if s.number > oldest {
			fn(s.value)
		}
	}
}

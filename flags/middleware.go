package flags

import (
	"context"
	"net/http"
)

// Decider decides whether a user has a flag; *[View] and *[Watcher] do.
type Decider interface {
	Decide(name, user string) Decision
}

// Middleware lets the users who have the flag through to the next handler, and
// sends the others to fallback; nil answers 404, as if nothing were there. It
// decides once: both handlers find the decision by FromContext. A request for
// which user returns false goes to fallback.
func Middleware(d Decider, name string, user func(*http.Request) (id string, ok bool), fallback http.Handler) func(http.Handler) http.Handler {
	if fallback == nil {
		fallback = http.NotFoundHandler()
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			decision := Decision{Reason: ReasonNoUser}
			if id, ok := user(r); ok {
				decision = d.Decide(name, id)
			}
			r = withDecision(r, &name, decision)
			if decision.On {
				next.ServeHTTP(w, r)
			} else {
				fallback.ServeHTTP(w, r)
			}
		})
	}
}

// withDecision allocates the context and the copy of the request that carries
// it together: the copy that WithContext returns stays on the stack.
func withDecision(r *http.Request, name *string, d Decision) *http.Request {
	both := &struct {
		ctx     decided
		request http.Request
	}{ctx: decided{r.Context(), name, d}}
	both.request = *r.WithContext(&both.ctx)
	return &both.request
}

// decided is a context that holds a decision.
type decided struct {
	context.Context
	name     *string // a string of its own would cost withDecision a size class
	decision Decision
}

type decidedKey struct{}

func (c *decided) Value(key any) any {
	if key == (decidedKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// FromContext returns what Middleware decided about the flag of that name.
func FromContext(ctx context.Context, name string) (d Decision, ok bool) {
	for {
		c, ok := ctx.Value(decidedKey{}).(*decided)
		if !ok {
			return Decision{}, false
		}
		if *c.name == name {
			return c.decision, true
		}
		ctx = c.Context
	}
}

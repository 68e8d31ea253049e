package flags

import (
	"context"
	"net/http"
)

// Decider decides whether a user has a flag; *[View] and *[Watcher] do.
type Decider interface {
	Decide(name, user string) Decision
}

// Middleware passes requests of users who have the flag to the next handler, and
// all others to fallback, also those for which user returns false. A nil fallback
// responds with 404. Each request is decided once: both handlers get the decision
// from FromContext.
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

// withDecision returns a copy of the request that carries the decision. One
// allocation holds the copy and its context: the copy that WithContext returns
// stays on the stack.
func withDecision(r *http.Request, name *string, d Decision) *http.Request {
	both := &struct {
		ctx     decisionContext
		request http.Request
	}{ctx: decisionContext{r.Context(), name, d}}
	both.request = *r.WithContext(&both.ctx)
	return &both.request
}

// decisionContext is a context that holds a decision.
type decisionContext struct {
	context.Context
	name     *string // a string would move withDecision's allocation to the next size class
	decision Decision
}

type decisionKey struct{}

func (c *decisionContext) Value(key any) any {
	if key == (decisionKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// FromContext returns what Middleware decided about the flag of that name. It
// returns false if no Middleware decided about that flag.
func FromContext(ctx context.Context, name string) (d Decision, ok bool) {
	for {
		c, ok := ctx.Value(decisionKey{}).(*decisionContext)
		if !ok {
			return Decision{}, false
		}
		if *c.name == name {
			return c.decision, true
		}
		ctx = c.Context
	}
}

package automation

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

// validUser tells whether an id can be kept: the rule of package settings.
func validUser(id string) bool {
	return id != "" && len(id) <= 256 && utf8.ValidString(id) && !strings.ContainsFunc(id, unicode.IsControl)
}

// who identifies the user of a settings request.
func (m *Module) who(r *http.Request) (Identity, error) {
	id, err := m.identify(r)
	switch {
	case errors.Is(err, ErrIdentityUnavailable):
		return id, problem.New(http.StatusServiceUnavailable, "It cannot be told at the moment who you are.").Because(err)
	case err != nil:
		return id, problem.New(http.StatusUnauthorized, "Send a valid API key as a bearer token.")
	case !validUser(id.UserID):
		return id, problem.New(http.StatusUnauthorized, "Send a valid API key as a bearer token.").
			Because(errors.New("automation: Identify returned an id that cannot be kept: empty, over 256 bytes, or with control characters"))
	}
	return id, nil
}

// limiter bounds how often a user may write their settings: writesAtOnce, and
// then one every two seconds.
type limiter struct {
	mu    sync.Mutex
	users *lru.Cache[string, *rate.Limiter]
}

const (
	writesAtOnce    = 30
	writesPerSecond = 0.5
)

func (l *limiter) allow(user string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users == nil {
		l.users, _ = lru.New[string, *rate.Limiter](10_000) // fails for sizes below one only
	}
	u, ok := l.users.Get(user)
	if !ok {
		u = rate.NewLimiter(writesPerSecond, writesAtOnce)
		l.users.Add(user, u)
	}
	return u.Allow()
}

// clipped bounds what a client sent, for the log.
func clipped(s string) string { return s[:min(len(s), 128)] }

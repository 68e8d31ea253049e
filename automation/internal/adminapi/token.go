package adminapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/identity"
)

// headerActor names the operator behind the shared token, for the audit.
const headerActor = "X-Automation-Actor"

// A source may send maxGuesses wrong tokens in a guessWindow.
const (
	maxGuesses   = 10
	guessWindow  = time.Minute
	guessSources = 10_000 // how many sources are remembered: those seen last
)

// guessLimitError says that a source has sent too many wrong tokens.
type guessLimitError struct{ retry time.Duration }

func (e *guessLimitError) Error() string { return "automation: too many wrong tokens" }

// ByToken authorizes requests that send the bearer token. The actor is "admin",
// or "admin:" and the value of the header X-Automation-Actor. A source that has
// sent ten wrong tokens within a minute is refused until the minute is over, even
// with the right token. The source is the connection's address: behind a proxy it
// is the proxy's.
func ByToken(token string, now func() time.Time, logger *slog.Logger) func(*http.Request) (actor string, err error) {
	want := sha256.Sum256([]byte(token))
	guesses := newGuessLimiter(now)
	return func(r *http.Request) (string, error) {
		source, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			source = r.RemoteAddr
		}
		if retry := guesses.wait(source); retry > 0 {
			return "", &guessLimitError{retry}
		}
		scheme, sent, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		// Digests have one length, so that the time of the comparison reveals nothing
		// about the token, not even its length.
		got := sha256.Sum256([]byte(sent))
		if subtle.ConstantTimeCompare(want[:], got[:]) != 1 || !strings.EqualFold(scheme, "Bearer") {
			if sent != "" { // an empty token is no guess
				guesses.add(source)
				logger.WarnContext(r.Context(), "wrong token for the admin API", "source", source)
			}
			return "", errors.New("automation: not the operators' token")
		}
		switch name := r.Header.Get(headerActor); {
		case name == "":
			return "admin", nil
		case !identity.Valid(name):
			return "", fmt.Errorf("automation: the header %s is not a valid name", headerActor)
		default:
			return "admin:" + name, nil
		}
	}
}

// guessLimiter counts wrong tokens by source.
type guessLimiter struct {
	now     func() time.Time
	mu      sync.Mutex
	sources *lru.Cache[string, *guessCount]
}

type guessCount struct {
	began time.Time
	wrong int
}

func newGuessLimiter(now func() time.Time) *guessLimiter {
	sources, err := lru.New[string, *guessCount](guessSources)
	if err != nil {
		panic(err) // impossible: the size is positive
	}
	return &guessLimiter{now: now, sources: sources}
}

// wait returns for how long a source is still refused; 0 if it is not.
func (l *guessLimiter) wait(source string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.sources.Get(source)
	if !ok || c.wrong < maxGuesses {
		return 0
	}
	return max(c.began.Add(guessWindow).Sub(l.now()), 0)
}

// add counts a wrong token.
func (l *guessLimiter) add(source string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.sources.Get(source)
	if at := l.now(); !ok || at.Sub(c.began) >= guessWindow {
		c = &guessCount{began: at}
		l.sources.Add(source, c)
	}
	c.wrong++
}

package userapi

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// How often a user may change their settings: changesAtOnce, and then one each
// changeInterval.
const (
	changesAtOnce  = 30
	changeInterval = 2 * time.Second
)

// limitedUsers is how many users a limiter remembers, the latest.
const limitedUsers = 10_000

// limiter bounds how often each user does something.
type limiter struct {
	atOnce   int
	interval time.Duration

	mu    sync.Mutex
	users *lru.Cache[string, *rate.Limiter]
}

func newLimiter(atOnce int, interval time.Duration) *limiter {
	users, _ := lru.New[string, *rate.Limiter](limitedUsers) // fails for sizes below one only
	return &limiter{atOnce: atOnce, interval: interval, users: users}
}

func (l *limiter) allow(userID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	u, ok := l.users.Get(userID)
	if !ok {
		u = rate.NewLimiter(rate.Every(l.interval), l.atOnce)
		l.users.Add(userID, u)
	}
	return u.Allow()
}

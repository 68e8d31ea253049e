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
	limitedUsers   = 10_000
)

// changeLimiter bounds how often each user changes settings.
type changeLimiter struct {
	mu    sync.Mutex
	users *lru.Cache[string, *rate.Limiter]
}

func (l *changeLimiter) allow(userID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users == nil {
		l.users, _ = lru.New[string, *rate.Limiter](limitedUsers) // fails for sizes below one only
	}
	u, ok := l.users.Get(userID)
	if !ok {
		u = rate.NewLimiter(rate.Every(changeInterval), changesAtOnce)
		l.users.Add(userID, u)
	}
	return u.Allow()
}

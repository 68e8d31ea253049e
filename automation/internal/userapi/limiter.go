package userapi

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// A user may make changeBurst changes in a row, and then one each
// changeInterval.
const (
	changeBurst    = 30
	changeInterval = 2 * time.Second
)

// limitedUsers is how many users a limiter remembers: those seen last.
const limitedUsers = 10_000

// limiter bounds how often each user does something.
type limiter struct {
	burst    int
	interval time.Duration

	mu    sync.Mutex
	users *lru.Cache[string, *rate.Limiter]
}

func newLimiter(burst int, interval time.Duration) *limiter {
	users, err := lru.New[string, *rate.Limiter](limitedUsers)
	if err != nil {
		panic(err) // impossible: the size is positive
	}
	return &limiter{burst: burst, interval: interval, users: users}
}

func (l *limiter) allow(userID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	u, ok := l.users.Get(userID)
	if !ok {
		u = rate.NewLimiter(rate.Every(l.interval), l.burst)
		l.users.Add(userID, u)
	}
	return u.Allow()
}

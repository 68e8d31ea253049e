package settings

import (
	"fmt"
	"time"
)

// NewFilledCache returns a cache that holds so many users.
func NewFilledCache(users int, now time.Time) *Cache {
	c := NewCache(&Store{}, CacheOptions{Size: users})
	for i := range users {
		user := fmt.Sprintf("user-%08d", i)
		c.add(user, &entry{record{Settings{UserID: user, SessionDuration: time.Hour, Version: 1, CreatedAt: now, UpdatedAt: now}, rowVersion{1, now}}, now})
	}
	return c
}

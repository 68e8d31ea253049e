package mapping

import (
	"context"
	"fmt"
)

// Parse is Load of the content of a file.
func Parse(data []byte) (*Table, error) {
	f, err := parseFile(data)
	if err != nil {
		return nil, fmt.Errorf("mapping: parse: %w", err)
	}
	return build(f, nil, nil), nil
}

const (
	MaxName     = maxName
	MaxFeedSize = maxFeedSize
)

// The values of Model.Match.
const (
	MatchID       = matchID
	MatchName     = matchName
	MatchAlias    = matchAlias
	MatchSlug     = matchSlug
	MatchDefault  = matchDefault
	MatchFallback = matchFallback
)

func (c *Catalog) LoadFeed(ctx context.Context) error     { return c.loadFeed(ctx) }
func (c *Catalog) LoadRegistry(ctx context.Context) error { return c.loadRegistry(ctx) }

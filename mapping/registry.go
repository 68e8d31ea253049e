package mapping

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const registryTimeout = 10 * time.Second

// readRegistry returns what the node's registry states, by id. An empty answer
// is an error: it would otherwise make every type unknown.
func readRegistry(ctx context.Context, list func(context.Context) ([]Model, error)) (map[string]facts, error) {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	models, err := list(ctx)
	if err != nil {
		return nil, fmt.Errorf("mapping: registry: %w", err)
	}
	stated := make(map[string]facts, len(models))
	for _, m := range models {
		id, ok := parseID(m.ID)
		if !ok {
			continue
		}
		typ := parseType(string(m.Type))
		if typ == Unknown { // the node infers types from tags: no tag states nothing
			typ = ""
		}
		stated[id] = facts{typ, m.Created}
	}
	if len(stated) == 0 {
		return nil, errors.New("mapping: registry: no model")
	}
	return stated, nil
}

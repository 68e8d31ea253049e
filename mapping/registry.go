package mapping

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const registryTimeout = 10 * time.Second

// readRegistry reads the models' facts from the node's registry, by id. An empty
// registry is an error, because it would remove the types of all models.
func readRegistry(ctx context.Context, list func(context.Context) ([]Model, error)) (map[string]facts, error) {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	models, err := list(ctx)
	if err != nil {
		return nil, fmt.Errorf("mapping: registry: %w", err)
	}
	byID := make(map[string]facts, len(models))
	for _, m := range models {
		id, ok := parseID(m.ID)
		if !ok {
			continue
		}
		typ := parseType(string(m.Type))
		if typ == Unknown { // the node infers types from tags: a model without a tag states no type
			typ = ""
		}
		byID[id] = facts{typ, m.Created}
	}
	if len(byID) == 0 {
		return nil, errors.New("mapping: registry: no model")
	}
	return byID, nil
}

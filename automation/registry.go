package automation

import (
	"context"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// registryOf returns what lists a node's registry for the catalog of models,
// or nil for a node that has none.
func registryOf(n Node) func(context.Context) ([]mapping.Model, error) {
	lister, ok := n.(interface {
		Models(ctx context.Context) ([]proxyrouter.Model, error)
	})
	if !ok {
		return nil
	}
	return func(ctx context.Context) ([]mapping.Model, error) {
		models, err := lister.Models(ctx)
		var list []mapping.Model
		for _, m := range models {
			if !m.Deleted {
				list = append(list, mapping.Model{ID: m.ID, Type: mapping.Type(m.Type), Created: m.Created})
			}
		}
		return list, err
	}
}

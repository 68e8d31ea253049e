package proxyrouter

import (
	"context"
	"errors"
	"fmt"
	"math/big"
)

// Bid is one provider's offer for a model.
type Bid struct {
	ID             string
	ModelID        string
	Provider       string   // address
	PricePerSecond *big.Int // wei; never nil
	Score          float64  // the node's rating, the higher the better
}

// RatedBids lists the offers for a model that stand, in the node's order, best
// first. A failover makes sense only where there are two or more.
func (c *Client) RatedBids(ctx context.Context, modelID string) ([]Bid, error) {
	if err := segment(modelID); err != nil {
		return nil, fmt.Errorf("proxyrouter: %s: %w", opBids, err)
	}
	a, err := c.do(ctx, c.read(opBids, "/blockchain/models/"+modelID+"/bids/rated"))
	if err != nil {
		return nil, err
	}
	bids, err := decodeBids(a.body)
	if err != nil {
		return nil, c.malformed(opBids, a, err)
	}
	return bids, nil
}

// Model is a model of the registry. Names are not unique.
type Model struct {
	ID      string
	Name    string
	Tags    []string
	Type    string // LLM, EMBEDDING, TTS, STT, UNKNOWN, or empty from older nodes
	Deleted bool
}

// Models lists the registry.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	a, err := c.do(ctx, c.read(opModels, "/blockchain/models"))
	if err != nil {
		return nil, err
	}
	models, err := decodeModels(a.body)
	if err != nil {
		return nil, c.malformed(opModels, a, err)
	}
	return models, nil
}

// Health is what the node says of itself.
type Health struct {
	Status  string // healthy or degraded
	Version string
}

// Health asks the node's open health check, past the breaker and without
// credentials. A node that says anything but healthy is a *[NodeError] beside
// the Health it told.
func (c *Client) Health(ctx context.Context) (Health, error) {
	k := c.read(opHealth, "/healthcheck")
	k.public = true
	a, err := c.send(ctx, k)
	if lost, ok := errors.AsType[*lostError](err); ok {
		return Health{}, c.unanswered(opHealth, lost)
	}
	var h Health
	if err := unmarshal(a.body, &h); err != nil && a.status == 200 {
		return Health{}, c.malformed(opHealth, a, err)
	}
	if a.status != 200 || h.Status != "healthy" {
		return h, c.answered(opHealth, a)
	}
	return h, nil
}

func decodeBids(body []byte) ([]Bid, error) {
	var shape struct {
		Bids []struct {
			ID  string `json:"ID"`
			Bid struct {
				Provider       string
				ModelAgentID   string `json:"ModelAgentId"`
				PricePerSecond integer
				DeletedAt      unixSeconds
			}
			Score float64
		} `json:"bids"`
	}
	if err := unmarshal(body, &shape); err != nil {
		return nil, err
	}
	bids := make([]Bid, 0, len(shape.Bids))
	for _, b := range shape.Bids {
		if b.Bid.Provider == "" {
			return nil, errors.New("a bid without a provider")
		}
		if !b.Bid.DeletedAt.IsZero() {
			continue
		}
		price := b.Bid.PricePerSecond.Int
		if price == nil {
			price = new(big.Int)
		}
		bids = append(bids, Bid{
			ID: b.ID, ModelID: b.Bid.ModelAgentID, Provider: b.Bid.Provider,
			PricePerSecond: price, Score: b.Score,
		})
	}
	return bids, nil
}

func decodeModels(body []byte) ([]Model, error) {
	var shape struct {
		Models []struct {
			ID        string `json:"Id"`
			Name      string
			Tags      []string
			ModelType string
			IsDeleted bool
		} `json:"models"`
	}
	if err := unmarshal(body, &shape); err != nil {
		return nil, err
	}
	models := make([]Model, 0, len(shape.Models))
	for _, m := range shape.Models {
		models = append(models, Model{ID: m.ID, Name: m.Name, Tags: m.Tags, Type: m.ModelType, Deleted: m.IsDeleted})
	}
	return models, nil
}

package proxyrouter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Bid is a provider's offer for a model.
type Bid struct {
	ID       string
	Provider string  // address
	Score    float64 // the node's rating, the higher the better
}

// RatedBids lists the current bids for a model in the node's order, the best
// first. A model with one bid has no other provider to change to.
func (c *Client) RatedBids(ctx context.Context, modelID string) ([]Bid, error) {
	modelID, err := pathID(modelID)
	if err != nil {
		return nil, fmt.Errorf("proxyrouter: %s: %w", opBids, err)
	}
	resp, err := c.do(ctx, c.readCall(opBids, "/blockchain/models/"+modelID+"/bids/rated"))
	if err != nil {
		return nil, err
	}
	bids, err := decodeBids(resp.body)
	if err != nil {
		return nil, c.malformed(opBids, resp, err)
	}
	return bids, nil
}

// Model is a model of the node's registry.
type Model struct {
	ID      string // canonical
	Type    string // LLM, EMBEDDING, TTS, STT or UNKNOWN; empty from older nodes
	Created time.Time
	Deleted bool
}

// Models lists the registry, deleted models included.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	resp, err := c.do(ctx, c.readCall(opModels, "/blockchain/models"))
	if err != nil {
		return nil, err
	}
	models, err := decodeModels(resp.body)
	if err != nil {
		return nil, c.malformed(opModels, resp, err)
	}
	return models, nil
}

func decodeBids(body []byte) ([]Bid, error) {
	var wire struct {
		Bids []struct {
			Bid struct { // the outer ID is zero
				ID        string `json:"Id"`
				Provider  string
				DeletedAt unixSeconds
			}
			Score float64
		} `json:"bids"`
	}
	if err := unmarshal(body, &wire); err != nil {
		return nil, err
	}
	bids := make([]Bid, 0, len(wire.Bids))
	for _, b := range wire.Bids {
		if b.Bid.Provider == "" {
			return nil, errors.New("a bid without a provider")
		}
		if b.Bid.DeletedAt.IsZero() {
			bids = append(bids, Bid{ID: b.Bid.ID, Provider: b.Bid.Provider, Score: b.Score})
		}
	}
	return bids, nil
}

func decodeModels(body []byte) ([]Model, error) {
	var wire struct {
		Models *[]struct {
			ID        string `json:"Id"`
			ModelType string
			CreatedAt unixSeconds
			IsDeleted bool
		} `json:"models"`
	}
	if err := unmarshal(body, &wire); err != nil {
		return nil, err
	}
	if wire.Models == nil {
		return nil, errors.New("a response without models")
	}
	models := make([]Model, 0, len(*wire.Models))
	for _, m := range *wire.Models {
		id, err := pathID(m.ID)
		if err != nil {
			return nil, errors.New("a model with a malformed id")
		}
		models = append(models, Model{ID: id, Type: strings.ToUpper(m.ModelType), Created: m.CreatedAt.Time, Deleted: m.IsDeleted})
	}
	return models, nil
}

package proxyrouter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

func TestRatedBids_Decodes(t *testing.T) {
	c := answering(t, 200, `{"bids":[
		{"ID":"0x0","Bid":{"Id":"0xb1","Provider":"0xp1","ModelAgentId":"0xm","PricePerSecond":"10000000000000000000001","Nonce":"0","CreatedAt":"1750000000","DeletedAt":"0"},"Score":0.75},
		{"ID":"0x0","Bid":{"Id":"0xb2","Provider":"0xp2","ModelAgentId":"0xm","PricePerSecond":"5","DeletedAt":"1750000001"},"Score":0.5},
		{"ID":"0x0","Bid":{"Id":"0xb3","Provider":"0xp3","ModelAgentId":"0xm","DeletedAt":null},"Score":0}]}`)
	got, err := c.RatedBids(t.Context(), model)
	if err != nil {
		t.Fatal(err)
	}
	want := []proxyrouter.Bid{{ID: pad("0xb1"), Provider: "0xp1", Score: 0.75}, {ID: pad("0xb3"), Provider: "0xp3"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bids (-want +got):\n%s", diff)
	}
}

func TestRatedBids_RejectsMalformedResponses(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON":             `x`,
		"no provider":         `{"bids":[{"ID":"0xb1","Bid":{}}]}`,
		"a score in words":    `{"bids":[{"ID":"0xb1","Bid":{"Provider":"0x1"},"Score":"high"}]}`,
		"a time that is true": `{"bids":[{"ID":"0xb1","Bid":{"Provider":"0x1","DeletedAt":true}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := answering(t, 200, body).RatedBids(t.Context(), model); err == nil {
				t.Errorf("bids = %v, want an error", got)
			}
		})
	}
	if _, err := answering(t, 200, `{}`).RatedBids(t.Context(), "a b"); err == nil {
		t.Error("an id with a space: no error")
	}
}

func TestRatedBids_ListsTheSimulatedNodesBids(t *testing.T) {
	node, c := start(t, proxyroutertest.Options{Models: []proxyroutertest.Model{
		{ID: model, Name: "Llama", Providers: []proxyroutertest.Provider{{Address: "0x1"}, {Address: "0x2"}}},
	}})
	bids, err := c.RatedBids(t.Context(), model)
	if err != nil || len(bids) != 2 || bids[0].Provider != "0x1" || bids[0].Score <= bids[1].Score || bids[0].ID == bids[1].ID {
		t.Errorf("bids = %v, %v; want those of 0x1 and 0x2 in this order", bids, err)
	}
	node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpBids})
	if _, err := c.RatedBids(t.Context(), model); err == nil {
		t.Error("an error response: no error")
	}
}

func TestModels_HaveCanonicalIDs(t *testing.T) {
	upper := "0X" + strings.ToUpper(model[2:])
	created := time.Unix(1750000000, 0).UTC()
	_, c := start(t, proxyroutertest.Options{Models: []proxyroutertest.Model{
		{ID: model, Name: "Llama"},
		{ID: proxyroutertest.ModelID("bge"), Name: "bge", Type: "EMBEDDING"},
	}})
	models, err := c.Models(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []proxyrouter.Model{{ID: model, Type: "LLM", Created: created}, {ID: proxyroutertest.ModelID("bge"), Type: "EMBEDDING", Created: created}}
	if diff := cmp.Diff(want, models); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	for name, test := range map[string]struct {
		body string
		want []proxyrouter.Model // nil: an error
	}{
		"upper case":     {`{"models":[{"Id":"` + upper + `","ModelType":"llm"}]}`, []proxyrouter.Model{{ID: model, Type: "LLM"}}},
		"deleted":        {`{"models":[{"Id":"` + model + `","ModelType":"LLM","IsDeleted":true}]}`, []proxyrouter.Model{{ID: model, Type: "LLM", Deleted: true}}},
		"without a type": {`{"models":[{"Id":"` + model + `","CreatedAt":"1750000000"}]}`, []proxyrouter.Model{{ID: model, Created: created}}},
		"an empty list":  {`{"models":[]}`, []proxyrouter.Model{}},
		"no list":        {`{}`, nil},
		"another shape":  {`[]`, nil},
		"a malformed id": {`{"models":[{"Id":"0x","ModelType":"LLM"}]}`, nil},
		"no JSON":        {`<html>`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := answering(t, 200, test.body).Models(t.Context())
			if (err == nil) != (test.want != nil) || !cmp.Equal(got, test.want) {
				t.Errorf("models = %v, %v; want %v", got, err, test.want)
			}
		})
	}
	if _, err := answering(t, 500, "").Models(t.Context()); err == nil {
		t.Error("an error response: no error")
	}
}

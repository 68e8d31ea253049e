package proxyrouter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

func Example() {
	node, err := proxyroutertest.Start(proxyroutertest.Options{Username: "admin", Password: "secret"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close()

	client, err := proxyrouter.New(proxyrouter.Options{URL: node.URL, Username: "admin", Password: "secret"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.CloseIdleConnections()

	ctx := context.Background()
	model := proxyroutertest.ModelID("llama")
	id, err := client.OpenSession(ctx, session.OpenRequest{ModelID: model, Duration: time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := client.GetSession(ctx, id)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("lasts", s.EndsAt.Sub(s.OpenedAt))

	resp, err := client.Forward(ctx, proxyrouter.ChatRequest{
		Path:      "/v1/audio/speech",
		SessionID: id,
		Header:    http.Header{"Content-Type": {"application/json"}},
		Body:      []byte(`{"input":"hi"}`),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	audio, err := io.ReadAll(resp.Body)
	fmt.Println(resp.Header.Get("Content-Type"), len(audio), err)
	// Output:
	// lasts 59m59s
	// audio/wav 204 <nil>
}

func ExampleClient_OpenSession_errors() {
	node, err := proxyroutertest.Start(proxyroutertest.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close()
	client, err := proxyrouter.New(proxyrouter.Options{URL: node.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = client.OpenSession(context.Background(), session.OpenRequest{
		ModelID: proxyroutertest.ModelID("llama"), Duration: time.Minute,
	})
	switch {
	case errors.Is(err, session.ErrNotOpened), errors.Is(err, session.ErrUnavailable):
		fmt.Println("nothing was opened:", err)
	case errors.Is(err, session.ErrWalletCollision):
		fmt.Println("look at the wallet's sessions, then try again in turn")
	case err != nil:
		fmt.Println("look at the wallet's sessions: one may have been paid")
	}
	// Output:
	// nothing was opened: proxyrouter: open session: node answered 500: failed to open session: EVM error: SessionTooShort() []
}

func ExampleClassify() {
	e := proxyrouter.Classify(500, []byte(`{"error":"provider request failed: provider error: session expired"}`))
	fmt.Println(e.Remedy)
	e = proxyrouter.Classify(401, []byte(`{"providerModelError":{"error":"invalid api key"},"statusCode":401}`))
	fmt.Println(e.Remedy, e.Status)
	// Output:
	// renew
	// failover 502
}

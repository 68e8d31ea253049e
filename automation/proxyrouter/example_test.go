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
		fmt.Println("probably nothing was opened: check the wallet's sessions before the next try")
	case err != nil:
		fmt.Println("the outcome is unknown: check the wallet's sessions, one may have been paid")
	}
	// Output:
	// nothing was opened: proxyrouter: open session: node answered 500: failed to open session: EVM error: SessionTooShort() []
}

func ExampleClient_Classify() {
	client, err := proxyrouter.New(proxyrouter.Options{URL: "http://127.0.0.1:8082"})
	if err != nil {
		fmt.Println(err)
		return
	}
	e := client.Classify(500, nil, []byte(`{"error":"provider request failed: provider error: session expired"}`))
	fmt.Println(e.Cause, e.Expired)
	e = client.Classify(400, nil, []byte(`{"providerModelError":{"error":{"message":"too long","code":"context_length_exceeded"}}}`))
	fmt.Println(e.Cause, e.Status, e.Code)
	// Output:
	// session true
	// model 400 context_length_exceeded
}

func ExampleClient_InitiateSession() {
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
	ctx := context.Background()
	id, err := client.OpenSession(ctx, session.OpenRequest{ModelID: proxyroutertest.ModelID("llama"), Duration: time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	chat := proxyrouter.ChatRequest{Path: "/v1/embeddings", SessionID: id, Body: []byte(`{"input":"hi"}`)}
	send := func() {
		resp, err := client.Forward(ctx, chat)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer resp.Body.Close() //nolint:errcheck // only the status counts here
		fmt.Println(resp.StatusCode)
	}
	node.Inject(proxyroutertest.Fault{Name: "lost-storage"})
	send()
	fmt.Println(client.InitiateSession(ctx, id))
	send()
	// Output:
	// 500
	// <nil>
	// 200
}

package proxyroutertest_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// A node is an http.Handler, so a test can call it without a network.
func Example() {
	node := proxyroutertest.New(proxyroutertest.Options{})
	path := "/blockchain/models/" + proxyroutertest.ModelID("llama") + "/session"

	post := func(body string) {
		w := httptest.NewRecorder()
		node.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodPost, path, strings.NewReader(body)))
		fmt.Println(w.Code)
	}
	post(`{"sessionDuration":3600}`)

	node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, After: true, Text: "i/o timeout"})
	post(`{"sessionDuration":3600}`) // answers 500, but opens a session

	fmt.Println(node.Stats().Opens, "paid")
	// Output:
	// 200
	// 500
	// 2 paid
}

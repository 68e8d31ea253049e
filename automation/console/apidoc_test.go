package console_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/console"
)

func TestAPIDocument_ShowsEveryOperation(t *testing.T) {
	document, err := os.ReadFile("../openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	h := console.APIDocument(document)
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		return w
	}
	page := get("/")
	for _, want := range []string{"<strong>PATCH</strong> /api/v1/automation/settings", "Idempotency-Key", "FeedbackWrite", `id="shape-Settings"`} {
		if !strings.Contains(page.Body.String(), want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	if strings.Contains(page.Body.String(), "<no value>") || strings.Contains(page.Body.String(), "<nil>") {
		t.Error("the page shows <no value> or <nil>: a template uses a field that the document lacks")
	}
	if page.Header().Get("Content-Security-Policy") == "" || get("/assets/console.css").Code != http.StatusOK {
		t.Error("the page has no content security policy, or no style sheet")
	}
}

func TestAPIDocument_PanicsOnInvalidJSON(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("APIDocument accepted a document that is not JSON, want a panic")
		}
	}()
	console.APIDocument([]byte("openapi: 3.1.0"))
}

package main

import (
	"embed"
	"encoding/json"
	"io/fs"
	"net/http"
	"sync"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

//go:embed trial
var trialFiles embed.FS

// trialPage serves the page at / and its files below /trial/. About describes
// the gateway. Node is nil where the node is a real one, which has no faults to choose.
func trialPage(mux *http.ServeMux, about string, node *proxyroutertest.Server) {
	files, err := fs.Sub(trialFiles, "trial")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	page := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
			h.ServeHTTP(w, r)
		})
	}
	mux.Handle("GET /{$}", page(http.FileServerFS(files)))
	mux.Handle("GET /trial/", page(http.StripPrefix("/trial/", http.FileServerFS(files))))
	mux.HandleFunc("GET /trial/about", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, map[string]string{"text": about}) })
	if node == nil {
		mux.Handle("GET /trial/faults", http.NotFoundHandler())
		return
	}
	f := &faults{node: node}
	mux.HandleFunc("GET /trial/faults", f.list)
	mux.Handle("POST /trial/faults", http.NewCrossOriginProtection().Handler(http.HandlerFunc(f.choose)))
}

// faults lets the page choose one fault of the simulated node at a time.
type faults struct {
	node *proxyroutertest.Server

	mu     sync.Mutex
	active string
}

type fault struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

func (f *faults) list(w http.ResponseWriter, _ *http.Request) {
	var list []fault
	for _, p := range proxyroutertest.Presets() {
		list = append(list, fault{p.Name, p.Description})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	writeJSON(w, map[string]any{"faults": list, "active": f.active})
}

func (f *faults) choose(w http.ResponseWriter, r *http.Request) {
	var chosen struct {
		Name string `json:"name"`
	}
	known := false
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&chosen)
	for _, p := range proxyroutertest.Presets() {
		known = known || p.Name == chosen.Name
	}
	if err != nil || chosen.Name != "" && !known {
		http.Error(w, "expected {\"name\": one of GET /trial/faults, or empty}", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.node.ClearFaults()
	if f.active = chosen.Name; f.active != "" {
		f.node.Inject(proxyroutertest.Fault{Name: f.active})
	}
	w.WriteHeader(http.StatusNoContent)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // it only fails if the client has left
}

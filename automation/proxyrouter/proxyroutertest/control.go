package proxyroutertest

import (
	"encoding/json"
	"net/http"
)

// controlRoutes adds the routes by which other processes control the node.
func (n *Node) controlRoutes() {
	n.mux.HandleFunc("GET /_sim/stats", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, n.Stats())
	})
	n.mux.HandleFunc("GET /_sim/faults", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, n.Faults())
	})
	n.mux.HandleFunc("POST /_sim/faults", func(w http.ResponseWriter, r *http.Request) {
		var f Fault
		dec := json.NewDecoder(r.Body)
		dec.DisallowUnknownFields()
		if err := dec.Decode(&f); err != nil {
			writeError(w, http.StatusBadRequest, err.Error())
			return
		}
		if _, ok := findPreset(f.Name); f.Name != "" && !ok {
			writeError(w, http.StatusBadRequest, "no preset has that name")
			return
		}
		n.Inject(f)
		w.WriteHeader(http.StatusNoContent)
	})
	n.mux.HandleFunc("DELETE /_sim/faults", func(w http.ResponseWriter, _ *http.Request) {
		n.ClearFaults()
		w.WriteHeader(http.StatusNoContent)
	})
	n.mux.HandleFunc("POST /_sim/expire", func(w http.ResponseWriter, r *http.Request) {
		if !n.Expire(r.FormValue("id")) {
			writeError(w, http.StatusNotFound, "session not found")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

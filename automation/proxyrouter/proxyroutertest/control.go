package proxyroutertest

import (
	"encoding/json"
	"net/http"
)

func (n *Node) controlRoutes() {
	n.mux.HandleFunc("GET /_sim/stats", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, n.Stats())
	})
	n.mux.HandleFunc("POST /_sim/faults", func(w http.ResponseWriter, r *http.Request) {
		var f Fault
		dec := json.NewDecoder(r.Body)
		dec.DisallowUnknownFields()
		if err := dec.Decode(&f); err != nil {
			fail(w, http.StatusBadRequest, err.Error())
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
			fail(w, http.StatusNotFound, "no such session")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

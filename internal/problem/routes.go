package problem

import "net/http"

// Routes answers as mux does, and as a problem where mux has no route or not
// for the method.
func Routes(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		said := verdict{header: http.Header{}, status: http.StatusOK}
		h.ServeHTTP(&said, r)
		if said.status < http.StatusBadRequest { // a redirect to the clean path
			mux.ServeHTTP(w, r)
			return
		}
		detail := "There is nothing here."
		if allow := said.header.Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
			detail = "This can be asked with " + allow + " only."
		}
		New(said.status, detail).write(w)
	})
}

// verdict keeps what the mux would answer, without its text.
type verdict struct {
	header http.Header
	status int
}

func (v *verdict) Header() http.Header         { return v.header }
func (v *verdict) WriteHeader(status int)      { v.status = status }
func (v *verdict) Write(p []byte) (int, error) { return len(p), nil }

package problem

import "net/http"

// Routes serves mux, and responds with a Problem if mux has no route for the path or
// for the method.
func Routes(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		response := recorder{header: http.Header{}, status: http.StatusOK}
		h.ServeHTTP(&response, r)
		if response.status < http.StatusBadRequest { // a redirect to the cleaned path
			mux.ServeHTTP(w, r)
			return
		}
		detail := "There is nothing here."
		if allow := response.header.Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
			detail = "The allowed methods are " + allow + "."
		}
		New(response.status, detail).write(w)
	})
}

// recorder records the status and headers of mux's own error, without its text.
type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }

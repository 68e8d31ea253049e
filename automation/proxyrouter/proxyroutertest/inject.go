package proxyroutertest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
)

// withFaults applies the faults of an operation to its handler.
func (n *Node) withFaults(op Op, next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := n.takeFault(op, r.PathValue("id"), "")
		if !ok {
			next(w, r)
			return
		}
		n.inject(f, w, r, next)
	})
}

// inject answers a call with a fault. If the fault needs the work done, its answer
// goes to a recorder, so that it can be discarded, cut or delayed.
func (n *Node) inject(f Fault, w http.ResponseWriter, r *http.Request, work http.HandlerFunc) {
	var done recorder
	if f.After || f.Mode == ModeCut {
		work(&done, r)
	} else {
		io.Copy(io.Discard, r.Body) //nolint:errcheck // the server notices a client that leaves only after the body
	}
	n.pause(f.Delay)
	switch f.Mode {
	case ModeHang:
		n.hang(r)
	case ModeDrop:
		panic(http.ErrAbortHandler)
	case ModeCut:
		done.cut(w)
	case ModeStall:
		f.writeHeader(w)
		w.Write([]byte(f.Body)[:len(f.Body)/2]) //nolint:errcheck // the client may have left
		http.NewResponseController(w).Flush()   //nolint:errcheck // the client may have left
		n.hang(r)
	default:
		f.respond(w, &done, n.isOld())
	}
}

// hang sends nothing until the caller leaves or the server is closed, and then
// aborts the connection.
func (n *Node) hang(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-n.stopped:
	}
	panic(http.ErrAbortHandler)
}

func (f Fault) writeHeader(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	for name, value := range f.Header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(f.status())
}

func (f Fault) status() int {
	if f.Status == 0 {
		return http.StatusInternalServerError
	}
	return f.Status
}

// respond sends a fault's answer; done is the correct answer if the fault has After.
func (f Fault) respond(w http.ResponseWriter, done *recorder, old bool) {
	switch {
	case f.model != nil:
		f.model.respond(w, f.Header, old)
	case f.Body != "":
		f.writeHeader(w)
		w.Write([]byte(f.Body)) //nolint:errcheck // the client may have left
	case f.Text != "":
		f.writeHeader(w)
		w.Write(mustJSON(map[string]any{"error": f.Text})) //nolint:errcheck // the client may have left
	case f.After && f.status() == http.StatusOK:
		done.replay(w)
	case f.status() == http.StatusNoContent, f.status()/100 == 3, f.status() == http.StatusSwitchingProtocols:
		f.writeHeader(w)
	default:
		writeError(w, f.status(), fmt.Sprintf("injected fault in %s", f.Op))
	}
}

// modelError is an error of the model behind a provider.
type modelError struct {
	status                     int
	message, code, kind, param string
}

// respond sends the error as the node does: an old one with 400 and without a
// statusCode, a current one with the model's status.
func (e modelError) respond(w http.ResponseWriter, header map[string]string, old bool) {
	inner := map[string]any{"message": e.message, "type": nil, "param": nil, "code": nil}
	for name, value := range map[string]string{"type": e.kind, "param": e.param, "code": e.code} {
		if value != "" {
			inner[name] = value
		}
	}
	body := map[string]any{"providerModelError": map[string]any{"error": inner}}
	status := http.StatusBadRequest
	if !old {
		status = e.status
		body["statusCode"] = e.status
		for name, value := range header {
			w.Header().Set(name, value)
		}
	}
	writeJSON(w, status, body)
}

// recorder is an http.ResponseWriter that records the answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header {
	if r.header == nil {
		r.header = make(http.Header)
	}
	return r.header
}

func (r *recorder) WriteHeader(status int) { r.status = status }

func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

func (r *recorder) copyHeader(w http.ResponseWriter) {
	for name, values := range r.Header() {
		w.Header()[name] = values
	}
}

// replay sends the recorded answer.
func (r *recorder) replay(w http.ResponseWriter) {
	r.copyHeader(w)
	w.WriteHeader(max(r.status, http.StatusOK))
	w.Write(r.body.Bytes()) //nolint:errcheck // the client may have left
}

// cut sends half of the recorded answer and aborts the connection.
func (r *recorder) cut(w http.ResponseWriter) {
	r.copyHeader(w)
	w.Header().Set("Content-Length", fmt.Sprint(r.body.Len()))
	w.WriteHeader(max(r.status, http.StatusOK))
	w.Write(r.body.Bytes()[:r.body.Len()/2]) //nolint:errcheck // the client may have left
	http.NewResponseController(w).Flush()    //nolint:errcheck // the connection ends here anyway
	panic(http.ErrAbortHandler)
}

package proxyroutertest

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Server is a node on a TCP port.
type Server struct {
	*Node
	URL string

	http     *http.Server
	handlers sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// Start serves a new node on a free port of 127.0.0.1 until Close.
func Start(opts Options) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binding a local port does not block
	if err != nil {
		return nil, fmt.Errorf("proxyroutertest: start: %w", err)
	}
	s := &Server{Node: New(opts), URL: "http://" + l.Addr().String()}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 10 * time.Second,
	}
	s.handlers.Go(func() { s.http.Serve(l) }) //nolint:errcheck // Close ends it
	return s, nil
}

// serve aborts requests after Close, and counts the others so that Close can wait
// for them.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	s.handlers.Add(1)
	s.mu.Unlock()
	defer s.handlers.Done()
	s.ServeHTTP(w, r)
}

// Close closes every connection and returns when all requests have ended. An open
// that has begun is completed first, as on a real chain. Answers of models are cut.
func (s *Server) Close() {
	s.http.Close() //nolint:errcheck // a closed listener needs nothing more
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.stopped)
	}
	s.mu.Unlock()
	s.handlers.Wait()
}

// NewServer starts a node that is closed when the test ends; tb is a *testing.T or
// a *testing.B.
func NewServer(tb interface {
	Helper()
	Fatal(args ...any)
	Cleanup(func())
}, opts Options) *Server {
	tb.Helper()
	s, err := Start(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

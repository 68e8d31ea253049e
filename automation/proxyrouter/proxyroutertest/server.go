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

	http *http.Server
	done sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// Start serves a new node on a free port of 127.0.0.1 until Close.
func Start(opts Options) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binding a local port waits for nothing
	if err != nil {
		return nil, fmt.Errorf("proxyroutertest: start: %w", err)
	}
	s := &Server{Node: New(opts), URL: "http://" + l.Addr().String()}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 10 * time.Second,
	}
	s.done.Go(func() { s.http.Serve(l) }) //nolint:errcheck // it ends by Close
	return s, nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	s.done.Add(1)
	s.mu.Unlock()
	defer s.done.Done()
	s.ServeHTTP(w, r)
}

// Close cuts every connection and returns when all requests have ended. An open
// that is under way ends first, as it would on the chain.
func (s *Server) Close() {
	s.http.Close() //nolint:errcheck // nothing to do about a listener that is gone
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.done.Wait()
}

// TB is the part of testing.TB that NewServer needs.
type TB interface {
	Helper()
	Fatal(args ...any)
	Cleanup(func())
}

// NewServer starts a node that ends with the test.
func NewServer(tb TB, opts Options) *Server {
	tb.Helper()
	s, err := Start(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

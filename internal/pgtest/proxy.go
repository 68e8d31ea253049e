package pgtest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// A Proxy listens on 127.0.0.1 between clients and a server. It simulates faults and latency of
// the network, and counts what crosses it. Any goroutine may use it. It closes the connection of
// a client if it cannot connect to the server.
type Proxy struct {
	listener net.Listener
	dsn      string
	wait     sync.WaitGroup

	mu        sync.Mutex
	upstream  endpoint
	loseMatch func(tag string) bool
	lost      int           // replies
	thawed    chan struct{} // closed unless the proxy is frozen
	links     map[*link]struct{}
	closed    bool
	traffic   Traffic
	latency   time.Duration
}

// NewProxy starts a proxy in front of the server of dsn: a cluster, a pooler or another proxy.
// It closes all connections when the test ends.
func NewProxy(tb testing.TB, dsn string) *Proxy {
	tb.Helper()
	to, err := parseEndpoint(dsn)
	check(tb, err)
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	check(tb, err)
	p := &Proxy{listener: listener, dsn: overTCP(dsn, listener.Addr().String()), upstream: to, thawed: make(chan struct{}), links: map[*link]struct{}{}, traffic: Traffic{Queries: map[string]int{}}}
	close(p.thawed)
	p.wait.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// DSN returns the URL of the database through the proxy, over TCP.
func (p *Proxy) DSN() string { return p.dsn }

// SetUpstream sends later connections to the server of dsn. Existing connections keep their
// server.
func (p *Proxy) SetUpstream(tb testing.TB, dsn string) {
	tb.Helper()
	to, err := parseEndpoint(dsn)
	check(tb, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstream = to
}

// LoseCommits loses the replies to the next n COMMITs, as [Proxy.LoseReplies] does.
func (p *Proxy) LoseCommits(n int) {
	p.LoseReplies(func(tag string) bool {
		if tag != "COMMIT" || n <= 0 {
			return false
		}
		n--
		return true
	})
}

// LoseReplies cuts a connection after the server has executed a command and before the client
// receives the reply, if match returns true for the reply's command tag, such as "COMMIT" or
// "INSERT 0 1". The tag of a failed COMMIT is "ROLLBACK". Match is not called concurrently. It may
// call [Proxy.Freeze] and return false to delay the reply. A nil match loses none.
func (p *Proxy) LoseReplies(match func(tag string) bool) {
	var matching sync.Mutex
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loseMatch = func(tag string) bool {
		matching.Lock()
		defer matching.Unlock()
		return match != nil && match(tag)
	}
}

// Lost returns how many replies were lost, so that a test can check that its fault occurred.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Freeze stops all bytes in both directions. Connections stay open, and new ones are accepted.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isThawed() {
		p.thawed = make(chan struct{})
	}
}

// Thaw undoes Freeze and forwards the bytes that wait.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.isThawed() {
		close(p.thawed)
	}
}

func (p *Proxy) isThawed() bool {
	select {
	case <-p.thawed:
		return true
	default:
		return false
	}
}

// CutAll closes every connection.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut()
	}
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.listener.Close()
	p.CutAll()
	p.wait.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // this client has disconnected already
		}
		ctx, cancel := context.WithCancel(context.Background())
		l := &link{proxy: p, client: client, done: ctx.Done(), cancel: cancel}
		p.mu.Lock()
		if p.closed {
			l.cut()
		}
		p.links[l] = struct{}{}
		p.mu.Unlock()
		p.wait.Go(func() {
			defer p.remove(l)
			l.serve(ctx)
		})
	}
}

func (p *Proxy) remove(l *link) {
	l.cut()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

func (p *Proxy) shouldLose(tag string) bool {
	p.mu.Lock()
	lose := p.loseMatch
	p.mu.Unlock()
	return lose != nil && lose(tag)
}

package pgtest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// A Proxy listens on 127.0.0.1 between clients and a server, simulates faults and latency of
// the network, and counts what crosses it. Any goroutine may use it. It closes a client whose
// server does not answer.
type Proxy struct {
	listener net.Listener
	dsn      string
	wait     sync.WaitGroup

	mu       sync.Mutex
	upstream endpoint
	lose     func(tag string) bool
	lost     int
	flows    chan struct{} // closed unless the proxy is frozen
	links    map[*link]struct{}
	closed   bool
	traffic  Traffic
	latency  time.Duration
}

// NewProxy starts a proxy in front of the server of dsn: a cluster, a pooler or another proxy.
// It closes all its connections when the test ends.
func NewProxy(tb testing.TB, dsn string) *Proxy {
	tb.Helper()
	to, err := parseEndpoint(dsn)
	check(tb, err)
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	check(tb, err)
	p := &Proxy{listener: listener, dsn: overTCP(dsn, listener.Addr().String()), upstream: to, flows: make(chan struct{}), links: map[*link]struct{}{}, traffic: Traffic{Queries: map[string]int{}}}
	close(p.flows)
	p.wait.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// DSN returns the URL of the database through the proxy, over TCP.
func (p *Proxy) DSN() string { return p.dsn }

// SetUpstream sends later connections to the server of dsn. Existing ones stay until
// [Proxy.CutAll].
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
// "INSERT 0 1". The tag of a failed COMMIT is "ROLLBACK". Match is not called concurrently; to
// hold the reply back and not lose it, it may call [Proxy.Freeze]. Nil loses none.
func (p *Proxy) LoseReplies(match func(tag string) bool) {
	var turn sync.Mutex
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = func(tag string) bool {
		turn.Lock()
		defer turn.Unlock()
		return match != nil && match(tag)
	}
}

// Lost returns how many replies were lost, so that a test can check that its fault occurred.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Freeze stops all bytes in both directions; connections stay open, and new ones are accepted.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flowing() {
		p.flows = make(chan struct{})
	}
}

// Thaw undoes Freeze, and forwards what waited.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.flowing() {
		close(p.flows)
	}
}

func (p *Proxy) flowing() bool {
	select {
	case <-p.flows:
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
	_ = p.listener.Close() // it does not listen any more either way
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
			continue // this client has left meanwhile
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
			defer p.forget(l)
			l.serve(ctx)
		})
	}
}

func (p *Proxy) forget(l *link) {
	l.cut()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

func (p *Proxy) loses(tag string) bool {
	p.mu.Lock()
	lose := p.lose
	p.mu.Unlock()
	return lose != nil && lose(tag)
}

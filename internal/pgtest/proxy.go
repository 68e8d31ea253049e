package pgtest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
)

// A Proxy stands on 127.0.0.1 between clients and a server, and breaks what passes. It may be
// used from any goroutine. A client whose server is away is closed without a word.
type Proxy struct {
	listener net.Listener
	dsn      string
	wait     sync.WaitGroup

	mu       sync.Mutex
	upstream endpoint
	lose     func(tag string) bool
	lost     int
	flows    chan struct{} // closed while bytes pass
	links    map[*link]struct{}
	closed   bool
}

// NewProxy starts a proxy in front of the server that dsn names: a cluster, a pooler, another
// proxy. It ends, and its connections with it, when the test does.
func NewProxy(tb testing.TB, dsn string) *Proxy {
	tb.Helper()
	to, err := parseEndpoint(dsn)
	check(tb, err)
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	check(tb, err)
	p := &Proxy{listener: listener, dsn: overTCP(dsn, listener.Addr().String()), upstream: to, flows: make(chan struct{}), links: map[*link]struct{}{}}
	close(p.flows)
	p.wait.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// DSN names the database that the proxy was made for, over TCP and through the proxy.
func (p *Proxy) DSN() string { return p.dsn }

// SetUpstream sends later connections to the server that dsn names. Those that stand, stay:
// [Proxy.CutAll] ends them.
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

// LoseReplies cuts a connection when the server has done what it was asked, before the client
// hears of it, wherever match says so of the reply's command tag: "COMMIT", "INSERT 0 1". A
// COMMIT that failed has the tag "ROLLBACK". The calls of match follow one another; in place
// of losing the reply, match may hold it back by calling [Proxy.Freeze]. Nil loses none.
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

// Lost counts the replies lost so far, so that a test can tell that what it tests happened.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Freeze lets no more bytes pass, in both directions; connections stand, and new ones are taken.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flowing() {
		p.flows = make(chan struct{})
	}
}

// Thaw undoes Freeze; what waited passes.
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

// CutAll closes every connection that stands.
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
	_ = p.listener.Close() // it listens no more either way
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
			continue // this client went away meanwhile
		}
		ctx, cancel := context.WithCancel(context.Background())
		l := &link{proxy: p, client: client, gone: ctx.Done(), cancel: cancel}
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

package pgtest

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// A link is one client's connection to its server through a proxy.
type link struct {
	proxy  *Proxy
	client net.Conn
	done   <-chan struct{}
	cancel context.CancelFunc
}

// cut ends the link. Any goroutine may call it.
func (l *link) cut() {
	l.cancel()
	_ = l.client.Close()
}

// serve copies between client and server until one of them ends or the link is cut.
func (l *link) serve(ctx context.Context) {
	startup, err := readStartup(l.client)
	if err != nil {
		return
	}
	l.proxy.mu.Lock()
	to := l.proxy.upstream
	l.proxy.mu.Unlock()
	server, err := new(net.Dialer).DialContext(ctx, to.network, to.address)
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer func() {
		if stop() {
			_ = server.Close()
		}
	}()
	var sending sync.WaitGroup
	sending.Go(func() {
		defer l.cut()
		out := gate{l, server}
		if _, err := out.Write(startup); err == nil {
			_ = l.forwardRequests(bufio.NewReaderSize(l.client, 64<<10), out) // on an error the link is cut
		}
	})
	l.forwardReplies(bufio.NewReader(server))
	l.cut()
	sending.Wait()
}

const (
	sslRequest    = 80877103
	gssEncRequest = 80877104
	maxStartup    = 10000 // the server's own bound
)

// readStartup declines requests for encryption and returns the first message for the server:
// a start-up message or a cancel request.
func readStartup(client io.ReadWriter) ([]byte, error) {
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(client, head); err != nil {
			return nil, err
		}
		size, code := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
		if size < 8 || size > maxStartup {
			return nil, fmt.Errorf("pgtest: start-up message of %d bytes", size)
		}
		if code == sslRequest || code == gssEncRequest {
			if _, err := client.Write([]byte{'N'}); err != nil {
				return nil, err
			}
			continue
		}
		message := append(head, make([]byte, size-8)...)
		_, err := io.ReadFull(client, message[8:])
		return message, err
	}
}

// forwardReplies forwards the server's messages. If a reply is to be lost it drops everything from
// that reply to ReadyForQuery, because an autocommit statement is committed only by then, and
// returns.
func (l *link) forwardReplies(server *bufio.Reader) {
	out := bufio.NewWriter(gate{l, l.client})
	for losing, ready := false, false; ; {
		head := make([]byte, 5)
		if _, err := io.ReadFull(server, head); err != nil {
			return
		}
		kind, size := head[0], int64(binary.BigEndian.Uint32(head[1:]))-4
		if kind == 'C' && size > 0 && !losing { // CommandComplete
			tag, err := server.Peek(int(min(size, 128))) // more than any tag has
			if err != nil {
				return
			}
			losing = l.proxy.shouldLose(strings.TrimRight(string(tag), "\x00"))
		}
		switch kind {
		case 'C':
			l.proxy.count(func(t *Traffic) { t.Statements++ })
		case 'Z': // ReadyForQuery
			l.proxy.count(func(t *Traffic) {
				if ready {
					t.RoundTrips++
				} else {
					t.Connections++
				}
			})
			ready = true
		}
		if losing {
			if _, err := io.CopyN(io.Discard, server, size); err != nil {
				return
			}
			if kind == 'Z' {
				l.proxy.mu.Lock()
				l.proxy.lost++
				l.proxy.mu.Unlock()
				return
			}
			continue
		}
		if _, err := out.Write(head); err != nil {
			return
		}
		if _, err := io.CopyN(out, server, size); err != nil {
			return
		}
		if server.Buffered() == 0 && out.Flush() != nil {
			return
		}
	}
}

// A gate writes to one side of a link. While the proxy is frozen, writes wait.
type gate struct {
	link *link
	to   net.Conn
}

func (g gate) Write(b []byte) (int, error) {
	g.link.proxy.mu.Lock()
	thawed := g.link.proxy.thawed
	g.link.proxy.mu.Unlock()
	select {
	case <-thawed:
		return g.to.Write(b)
	case <-g.link.done:
		return 0, net.ErrClosed
	}
}

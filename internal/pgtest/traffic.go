package pgtest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"time"
)

// Traffic is what crossed a proxy.
type Traffic struct {
	// Connections is how many connections became ready.
	Connections int
	// RoundTrips is how often a server reported that it is ready for the next query, for which
	// a client waits. Those of making a connection are not in it.
	RoundTrips int
	// Statements is how many statements were completed; one query may have several.
	Statements int
	// Queries is how often each text was sent to be executed, prepared ones included.
	Queries map[string]int
}

// TakeTraffic returns what crossed the proxy since the last call, and counts from zero again.
func (p *Proxy) TakeTraffic() Traffic {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.traffic
	t.Queries = maps.Clone(t.Queries)
	p.traffic = Traffic{Queries: map[string]int{}}
	return t
}

// SetLatency makes everything that a client sends reach the server that much later, as on a
// network with that round-trip time. It applies once to what a client sends together.
func (p *Proxy) SetLatency(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = d
}

func (p *Proxy) count(add func(*Traffic)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	add(&p.traffic)
}

// delay waits for the latency, or until the link is cut.
func (l *link) delay() {
	l.proxy.mu.Lock()
	d := l.proxy.latency
	l.proxy.mu.Unlock()
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.done:
	}
}

// requests forwards the client's messages and counts the queries.
func (l *link) requests(client *bufio.Reader, server io.Writer) error {
	out := bufio.NewWriter(server)
	prepared := map[string]string{} // texts by the name of the statement
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(client, head); err != nil {
			return err
		}
		if out.Buffered() == 0 {
			l.delay()
		}
		kind, size := head[0], int64(binary.BigEndian.Uint32(head[1:]))-4
		body, err := client.Peek(int(min(size, int64(client.Size()))))
		if err != nil {
			return err
		}
		switch kind {
		case 'Q': // Query: text
			query, _, _ := bytes.Cut(body, []byte{0})
			l.proxy.count(func(t *Traffic) { t.Queries[string(query)]++ })
		case 'P': // Parse: name of the statement, text
			name, rest, _ := bytes.Cut(body, []byte{0})
			query, _, _ := bytes.Cut(rest, []byte{0})
			prepared[string(name)] = string(query)
		case 'B': // Bind: name of the portal, name of the statement
			_, rest, _ := bytes.Cut(body, []byte{0})
			name, _, _ := bytes.Cut(rest, []byte{0})
			l.proxy.count(func(t *Traffic) { t.Queries[prepared[string(name)]]++ })
		}
		if _, err := out.Write(head); err != nil {
			return err
		}
		if _, err := io.CopyN(out, client, size); err != nil {
			return err
		}
		if client.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}

package pgtest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Traffic is what crossed a proxy.
type Traffic struct {
	// Connections is how many connections became ready.
	Connections int
	// RoundTrips is how often a server reported that it is ready for the next query. It does not
	// count those of opening connections.
	RoundTrips int
	// Statements is how many statements were completed; one query may have several.
	Statements int
	// Queries is how often each text was sent for execution, including prepared statements.
	Queries map[string]int
}

// FormatQueries returns a line for each query: how often it was sent, and the first 150 characters
// of its text. Failure texts of tests use it.
func (t Traffic) FormatQueries() string {
	var lines strings.Builder
	for _, query := range slices.Sorted(maps.Keys(t.Queries)) {
		fmt.Fprintf(&lines, "%4d × %.150s\n", t.Queries[query], strings.Join(strings.Fields(query), " "))
	}
	return lines.String()
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

// SetLatency delays everything that clients send, as a network with that round-trip time does.
// Messages that a client sends together are delayed once.
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

// delay sleeps for the latency, or until the link is cut.
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

// forwardRequests forwards the client's messages and counts the queries.
func (l *link) forwardRequests(client *bufio.Reader, server io.Writer) error {
	out := bufio.NewWriter(server)
	prepared := map[string]string{} // by the statement's name: its text
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

package pgpool

import (
	"context"
	"net"
	"time"
)

// dialer dials connections with a read timeout. It implements pq's Dialer and
// DialerContext.
type dialer struct{ readTimeout time.Duration }

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	nd := net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	c, err := nd.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, readTimeout: d.readTimeout}, nil
}

// conn is a connection that fails if the server sends nothing for readTimeout
// after a write or a read. An idle connection has no limit, because nothing reads
// from it.
type conn struct {
	net.Conn
	readTimeout time.Duration
	deadline    time.Time // that lib/pq set for connect_timeout; zero: none
}

// SetDeadline sets a deadline that applies if it is earlier than readTimeout.
func (c *conn) SetDeadline(t time.Time) error {
	c.deadline = t
	return c.Conn.SetDeadline(t)
}

// nextDeadline returns the deadline of an operation that begins now.
func (c *conn) nextDeadline() time.Time {
	t := time.Now().Add(c.readTimeout)
	if !c.deadline.IsZero() && c.deadline.Before(t) {
		return c.deadline
	}
	return t
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.Conn.SetDeadline(c.nextDeadline()); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil {
		// The next part of the response may take as long again.
		err = c.SetReadDeadline(c.nextDeadline())
	}
	return n, err
}

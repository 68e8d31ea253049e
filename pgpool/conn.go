package pgpool

import (
	"context"
	"net"
	"time"
)

// dialer makes connections with a read deadline.
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
	to := net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	c, err := to.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, readTimeout: d.readTimeout}, nil
}

// conn fails when the server is silent for too long after a query. An idle
// connection is not read from, so it has no limit.
type conn struct {
	net.Conn
	readTimeout time.Duration
	deadline    time.Time // lib/pq's own, from connect_timeout; the earlier one wins
}

func (c *conn) SetDeadline(t time.Time) error {
	c.deadline = t
	return c.Conn.SetDeadline(t)
}

func (c *conn) next() time.Time {
	t := time.Now().Add(c.readTimeout)
	if !c.deadline.IsZero() && c.deadline.Before(t) {
		return c.deadline
	}
	return t
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.Conn.SetDeadline(c.next()); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil {
		// The next part of the answer may take as long again.
		err = c.SetReadDeadline(c.next())
	}
	return n, err
}

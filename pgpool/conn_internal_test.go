package pgpool

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

func TestOpen_QueryOfAFrozenServerFails(t *testing.T) {
	cluster := pgtest.Start(t, pgtest.Options{})
	db, err := Open(cluster.DSN("postgres"), Options{ReadTimeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	cluster.Freeze()
	// Only ReadTimeout ends this query: its context has no deadline.
	if _, err = db.ExecContext(context.Background(), `SELECT 1`); err == nil {
		t.Error("a query of a frozen server returned no error")
	}
	cluster.Thaw()
	if err := db.PingContext(t.Context()); err != nil {
		t.Errorf("after the thaw the pool fails: %v", err)
	}
}

// pipe returns a conn and the server's end of it.
func pipe(readTimeout time.Duration) (*conn, net.Conn) {
	client, server := net.Pipe()
	return &conn{Conn: client, readTimeout: readTimeout}, server
}

func TestConn_TimesOutDuringAQueryButNotWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := pipe(time.Second)
		defer c.Close()
		defer server.Close()
		// respond reads a query and sends a byte after each of the pauses.
		respond := func(pauses ...time.Duration) {
			_, _ = server.Read(make([]byte, 1))
			for _, d := range pauses {
				time.Sleep(d)
				_, _ = server.Write([]byte{'x'})
			}
		}
		// query sends a query and reads a response of so many bytes.
		query := func(responseBytes int) error {
			if _, err := c.Write([]byte{'?'}); err != nil {
				return err
			}
			for range responseBytes {
				if _, err := c.Read(make([]byte, 1)); err != nil {
					return err
				}
			}
			return nil
		}
		go respond(900*time.Millisecond, 900*time.Millisecond, 900*time.Millisecond)
		if err := query(3); err != nil {
			t.Errorf("a response in three parts: %v", err)
		}
		time.Sleep(time.Hour)
		go respond(0)
		if err := query(1); err != nil {
			t.Errorf("a query after an idle hour: %v", err)
		}
		go respond(0)
		start := time.Now()
		if err := query(2); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("a response of which the second part is missing: %v after %v, want DeadlineExceeded after 1s", err, time.Since(start))
		}
		start = time.Now()
		if err := query(0); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("a query that the server does not read: %v after %v, want DeadlineExceeded after 1s", err, time.Since(start))
		}
	})
}

func TestConn_KeepsAnEarlierDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := pipe(time.Hour)
		defer c.Close()
		defer server.Close()
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := c.Write([]byte{'?'}); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Write returned %v after %v, want DeadlineExceeded after 1s", err, time.Since(start))
		}
	})
}

func TestDialer_ReturnsConnectionsWithTheReadTimeout(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := dialer{time.Minute}
	for name, dial := range map[string]func() (net.Conn, error){
		"Dial":        func() (net.Conn, error) { return d.Dial("tcp", l.Addr().String()) },
		"DialTimeout": func() (net.Conn, error) { return d.DialTimeout("tcp", l.Addr().String(), time.Second) },
	} {
		c, err := dial()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, ok := c.(*conn); !ok || got.readTimeout != time.Minute {
			t.Errorf("%s returned %#v, want a *conn with a read timeout of 1m0s", name, c)
		}
		_ = c.Close()
	}
}

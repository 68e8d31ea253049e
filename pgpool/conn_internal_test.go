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

func TestOpen_LeavesAFrozenServer(t *testing.T) {
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
	// Nothing else ends it: a context without a deadline, and a server that does not answer.
	if _, err = db.ExecContext(context.Background(), `SELECT 1`); err == nil {
		t.Error("a frozen server answered")
	}
	cluster.Thaw()
	if err := db.PingContext(t.Context()); err != nil {
		t.Errorf("it does not work again: %v", err)
	}
}

// pipe is a connection of ours and the server's end of it.
func pipe(readTimeout time.Duration) (*conn, net.Conn) {
	ours, server := net.Pipe()
	return &conn{Conn: ours, readTimeout: readTimeout}, server
}

func TestConn_FailsWhenTheServerIsSilentButNotWhenItIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := pipe(time.Second)
		defer c.Close()
		defer server.Close()
		answer := func(after ...time.Duration) {
			_, _ = server.Read(make([]byte, 1))
			for _, d := range after {
				time.Sleep(d)
				_, _ = server.Write([]byte{'x'})
			}
		}
		ask := func(answers int) error {
			if _, err := c.Write([]byte{'?'}); err != nil {
				return err
			}
			for range answers {
				if _, err := c.Read(make([]byte, 1)); err != nil {
					return err
				}
			}
			return nil
		}
		go answer(900*time.Millisecond, 900*time.Millisecond, 900*time.Millisecond)
		if err := ask(3); err != nil {
			t.Errorf("an answer that keeps coming: %v", err)
		}
		time.Sleep(time.Hour)
		go answer(0)
		if err := ask(1); err != nil {
			t.Errorf("after a rest in the pool: %v", err)
		}
		go answer(0)
		begun := time.Now()
		if err := ask(2); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("an answer that stops in the middle: %v after %v, want a time-out after 1s", err, time.Since(begun))
		}
		begun = time.Now()
		if err := ask(0); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("a question that nobody takes: %v after %v, want a time-out after 1s", err, time.Since(begun))
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
		begun := time.Now()
		if _, err := c.Write([]byte{'?'}); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("%v after %v, want a time-out after 1s", err, time.Since(begun))
		}
	})
}

func TestDialer_BoundsEveryConnection(t *testing.T) {
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
			t.Errorf("%s gives a %T", name, c)
		}
		_ = c.Close()
	}
}

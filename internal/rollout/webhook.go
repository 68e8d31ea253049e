package rollout

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
	"github.com/MorpheusAIs/gateway-automation/internal/webhooksecret"
)

// Webhook is a receiver of events, as https://www.standardwebhooks.com specifies
// it. Each event is a POST of {"type", "timestamp", "data"} in JSON, signed in the
// headers webhook-id, webhook-timestamp and webhook-signature. docs/webhooks.md
// lists the types and shows how to verify a request.
//
// Any 2xx accepts an event. After any other answer it is sent again, at first
// after 1 s and later after up to 10 min, for three days. The events of one rollout
// arrive in their order. An event may arrive more than once, with the same
// webhook-id. A receiver gets the events since a Run first had it among its
// webhooks, until none has had it for a week.
//
// Where the URL leads is not checked: it may be a host of the internal network.
type Webhook struct {
	// Name identifies the receiver in the outbox; keep it when the URL changes.
	Name string
	URL  string // http or https
	// Secret signs: "whsec_" and 24 to 64 bytes in base64.
	Secret string
}

// String leaves out the secret, and the URL, which may hold one.
func (w Webhook) String() string { return "webhook " + w.Name }

func checkWebhooks(list []Webhook) error {
	var errs []error
	names := map[string]bool{}
	for i, w := range list {
		add := func(what string) {
			errs = append(errs, fmt.Errorf("rollout: Options.Webhooks[%d].%s", i, what)) // never the values
		}
		if checkText("name", w.Name) != nil || names[w.Name] {
			add("Name must be unique, and have 1 to 200 bytes of UTF-8 without control characters")
		}
		names[w.Name] = true
		if u, err := url.Parse(w.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			add("URL must be an http or https URL")
		}
		if _, err := webhooksecret.Key(w.Secret); err != nil {
			add("Secret " + err.Error())
		}
	}
	return errors.Join(errs...)
}

// sendTimeout bounds one request.
const sendTimeout = 10 * time.Second

func defaultClient() *http.Client {
	return &http.Client{Timeout: sendTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// send sends messages to one receiver until ctx ends. Each receiver has its own
// loop, so that a slow one delays no other.
func (c *Controller) send(ctx context.Context, hook Webhook) {
	var registered time.Time
	retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
		if now := c.now(); now.Sub(registered) >= registerEvery {
			if _, err := sqldb.Write(ctx, c.db, "rollout.register", func(tx *sqldb.Tx) (any, error) { return nil, registerReceiver(tx, hook.Name) }); err != nil {
				return c.o.Interval
			}
			registered = now
		}
		if sent, err := c.deliver(ctx, hook); sent && err == nil {
			return 0 // there may be more
		}
		return c.o.Interval
	})
}

// deliver sends one message to a receiver, if one is due.
func (c *Controller) deliver(ctx context.Context, hook Webhook) (sent bool, err error) {
	// The lease outlasts the request, so that two replicas do not send it at once.
	m, err := sqldb.Write(ctx, c.db, "rollout.claim_next", func(tx *sqldb.Tx) (*message, error) {
		if err := errors.Join(enqueueFlagChanges(tx, hook.Name), enqueueFeedback(tx, hook.Name)); err != nil {
			return nil, err
		}
		return claimNext(tx, hook.Name, 2*sendTimeout)
	})
	if err != nil || m == nil {
		return false, err
	}
	sendErr := c.post(ctx, hook, *m)
	if sendErr != nil {
		c.log.WarnContext(ctx, "webhook not delivered, trying again", "webhook", hook.Name, "rollout", m.Rollout, "seq", m.Seq, "attempts", m.Attempts, "error", sendErr)
	}
	_, err = sqldb.Write(context.WithoutCancel(ctx), c.db, "rollout.record_delivery", func(tx *sqldb.Tx) (any, error) {
		return nil, recordDelivery(tx, hook.Name, *m, sendErr, retry.Backoff(m.Attempts, time.Second, 10*time.Minute))
	})
	return true, err
}

// post makes one attempt to send a message.
func (c *Controller) post(ctx context.Context, hook Webhook, m message) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, strings.NewReader(m.Body))
	if err != nil {
		return err
	}
	id, at := m.id(), strconv.FormatInt(c.now().Unix(), 10)
	signature, err := sign(hook.Secret, id, at, m.Body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", at)
	req.Header.Set("Webhook-Signature", signature)
	res, err := c.o.HTTPClient.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL
		}
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection can be reused
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("the receiver answered %s", res.Status)
	}
	return nil
}

// sign returns the signature of a message. The time at is in Unix seconds.
func sign(secret, id, at, body string) (string, error) {
	key, err := webhooksecret.Key(secret)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	_, _ = io.WriteString(mac, id+"."+at+"."+body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

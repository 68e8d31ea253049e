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

// Webhook is a receiver of events, by https://www.standardwebhooks.com: each is
// a POST of {"type", "timestamp", "data"} in JSON, signed with the headers
// webhook-id, webhook-timestamp and webhook-signature. docs/webhooks.md has the
// types, and shows how to verify one. Any 2xx accepts an event; otherwise it is
// sent again, after 1 s at first and 10 min at most, for three days. Those of
// one rollout come in their order; one may come more than once, with the same
// webhook-id. A receiver gets what happens after its first Run, in whatever
// process, until no replica has known it for a week.
//
// The URL is requested as it stands, wherever it leads: that it does not lead
// into places which it should not is the operator's choice to make.
type Webhook struct {
	// Name tells receivers apart in the outbox, and stays when a URL changes.
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
			add("Name must be there, and another for each")
		}
		names[w.Name] = true
		if u, err := url.Parse(w.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			add("URL must be one of http or https")
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

// send delivers to one receiver until ctx ends. Each has a loop of its own, so
// that a slow one delays no other.
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
	failed := c.post(ctx, hook, *m)
	if failed != nil {
		c.log.WarnContext(ctx, "webhook not delivered, trying again", "webhook", hook.Name, "rollout", m.Rollout, "seq", m.Seq, "attempts", m.Attempts, "error", failed)
	}
	_, err = sqldb.Write(context.WithoutCancel(ctx), c.db, "rollout.record_delivery", func(tx *sqldb.Tx) (any, error) {
		return nil, recordDelivery(tx, hook.Name, *m, failed, retry.Backoff(m.Attempts, time.Second, 10*time.Minute))
	})
	return true, err
}

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
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection can serve again
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("the receiver answered %s", res.Status)
	}
	return nil
}

// sign returns the signature of a message that is sent at a time.
func sign(secret, id, at, body string) (string, error) {
	key, err := webhooksecret.Key(secret)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	_, _ = io.WriteString(mac, id+"."+at+"."+body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

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
)

// Webhook is a receiver of events. Each is a POST of an Event in JSON, signed
// as https://www.standardwebhooks.com says, see VerifyWebhook; any 2xx accepts
// it. Otherwise it is sent again, after 1 s at first and 10 min at most, until
// it is accepted. Events of one rollout come in their order; one may come more than
// once, with the same webhook-id. A receiver gets the events from its first Run
// on, whichever process they come from, until no replica has known it for a week.
//
// The URL is requested as it stands, wherever it leads: that it does not lead
// into places which it should not is the operator's choice to make.
type Webhook struct {
	// Name tells receivers apart in the outbox, and stays when a URL changes.
	Name string
	URL  string // http or https
	// Secret signs; at least 16 bytes.
	Secret string
}

// String leaves out the secret, and the URL, which may hold one.
func (w Webhook) String() string { return "webhook " + w.Name }

func checkWebhooks(list []Webhook) error {
	var errs []error
	names := map[string]bool{}
	for i, w := range list {
		complain := func(what string) {
			errs = append(errs, fmt.Errorf("rollout: Options.Webhooks[%d].%s", i, what)) // never the values
		}
		if checkText("name", w.Name) != nil || names[w.Name] {
			complain("Name must be there, and another for each")
		}
		names[w.Name] = true
		if u, err := url.Parse(w.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			complain("URL must be one of http or https")
		}
		if len(w.Secret) < 16 {
			complain("Secret must have at least 16 bytes")
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
	m, err := sqldb.Write(ctx, c.db, "rollout.claim_next", func(tx *sqldb.Tx) (*message, error) { return claimNext(tx, hook.Name, 2*sendTimeout) })
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
	id, at := fmt.Sprintf("%s-%d", url.PathEscape(m.Rollout), m.Seq), strconv.FormatInt(c.now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", at)
	req.Header.Set("Webhook-Signature", sign(hook.Secret, id, at, []byte(m.Body)))
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

func sign(secret, id, at string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// webhookAge is how far a timestamp may be off, either way.
const webhookAge = 5 * time.Minute

// VerifyWebhook returns nil where a request was signed with the secret and is
// not an old one sent again: its timestamp is within 5 minutes of now. The
// webhook-id is the event's own; a receiver that must not act twice keeps it.
func VerifyWebhook(secret string, h http.Header, body []byte, now time.Time) error {
	at, err := strconv.ParseInt(h.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || now.Sub(time.Unix(at, 0)).Abs() > webhookAge {
		return fmt.Errorf("rollout: webhook: the timestamp is missing or not of now: %w", ErrInvalid)
	}
	want := sign(secret, h.Get("Webhook-Id"), h.Get("Webhook-Timestamp"), body)
	for given := range strings.FieldsSeq(h.Get("Webhook-Signature")) {
		if hmac.Equal([]byte(given), []byte(want)) {
			return nil
		}
	}
	return fmt.Errorf("rollout: webhook: no signature fits: %w", ErrInvalid)
}

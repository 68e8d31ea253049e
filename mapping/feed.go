package mapping

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// maxFeedSize is the largest response of the feed, in bytes: 4 MiB. The real
	// one has about 8 KB.
	maxFeedSize = 4 << 20
	feedTimeout = 10 * time.Second
	// maxRedirects is the default of http.Client.
	maxRedirects = 10
)

// feed fetches ACTIVE_MODELS_URL. The Catalog holds the state.
type feed struct {
	url    string
	client *http.Client
}

// newFeed returns a feed whose client does not follow redirects to another host:
// otherwise anyone who can use an open redirect of the feed's host could choose
// the models.
func newFeed(o Options) feed {
	client := *o.HTTPClient
	check := client.CheckRedirect
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		first := via[0].URL
		switch {
		case req.URL.Host != first.Host || first.Scheme == "https" && req.URL.Scheme != "https":
			return errors.New("the server redirects to another host")
		case check != nil:
			return check(req, via)
		case len(via) >= maxRedirects:
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		return nil
	}
	return feed{url: o.FeedURL, client: &client}
}

// feedResponse is a good response of the feed.
type feedResponse struct {
	models  []feedModel // never empty
	skipped int         // malformed entries
	etag    string
}

// fetch reads the feed. It returns nil if the feed still has the etag. Errors do
// not show the URL, which may hold a token.
func (f *feed) fetch(ctx context.Context, etag string) (*feedResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, feedTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return nil, errors.New("mapping: feed: not a URL")
	}
	req.Header.Set("Accept", "application/json")
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("mapping: feed: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusNotModified && etag != "":
		return nil, nil
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("mapping: feed: the server answered %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxFeedSize+1))
	if err != nil {
		return nil, fmt.Errorf("mapping: feed: %w", err)
	}
	parsed, err := parseFeed(body)
	if err != nil {
		return nil, err
	}
	parsed.etag = resp.Header.Get("ETag")
	return parsed, nil
}

// parseFeed parses {"models":[…]} or a bare array. It omits deleted models and
// counts malformed entries. A feed without live models is an error, because it
// would remove all models of the feed from the table.
func parseFeed(body []byte) (*feedResponse, error) {
	if len(body) > maxFeedSize {
		return nil, fmt.Errorf("mapping: feed: the response is larger than %d bytes", maxFeedSize)
	}
	var entries []json.RawMessage
	var err error
	if bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")) {
		err = json.Unmarshal(body, &entries)
	} else {
		err = json.Unmarshal(body, &struct{ Models *[]json.RawMessage }{&entries})
	}
	if err != nil {
		return nil, fmt.Errorf("mapping: feed: %w", err)
	}

	resp := &feedResponse{}
	seen := make(map[string]bool, len(entries))
	for _, text := range entries {
		m, isDeleted, ok := parseFeedModel(text)
		switch {
		case !ok:
			resp.skipped++
		case isDeleted:
		case seen[m.id]:
			resp.skipped++
		default:
			seen[m.id] = true
			resp.models = append(resp.models, m)
		}
	}
	if len(resp.models) == 0 {
		return nil, fmt.Errorf("mapping: feed: no live model among %d entries", len(entries))
	}
	return resp, nil
}

// parseFeedModel parses an entry of the feed. It returns false for ok if the entry
// is malformed.
func parseFeedModel(text json.RawMessage) (m feedModel, isDeleted, ok bool) {
	var e struct {
		ID         string `json:"Id"`
		Name       string
		IsDeleted  bool
		ModelType  string
		CreatedAt  json.RawMessage
		VeniceID   string `json:"veniceId"`
		VeniceID2  string `json:"venice_id"`
		Enrichment struct {
			VeniceID  string `json:"veniceId"`
			VeniceID2 string `json:"venice_id"`
		} `json:"enrichment"`
	}
	if json.Unmarshal(text, &e) != nil {
		return feedModel{}, false, false
	}
	id, ok := parseID(e.ID)
	name := strings.TrimSpace(e.Name)
	if !ok || !e.IsDeleted && checkName(name) != "" {
		return feedModel{}, false, false
	}
	m = feedModel{name: name, id: id, facts: facts{parseType(e.ModelType), parseUnixTime(e.CreatedAt)}}
	for _, venice := range []string{e.Enrichment.VeniceID, e.Enrichment.VeniceID2, e.VeniceID, e.VeniceID2} {
		if venice = strings.TrimSpace(venice); checkName(venice) == "" {
			m.venice = venice
			break
		}
	}
	return m, e.IsDeleted, true
}

// parseType parses a type in any letter case. It returns "" for "", and Unknown
// for any other type that this package does not have.
func parseType(s string) Type {
	switch t := Type(strings.ToUpper(s)); t {
	case "", LLM, Embedding, TTS, STT:
		return t
	}
	return Unknown
}

// parseUnixTime parses seconds since 1970, given as a number or a string. It
// returns the zero time for anything else.
func parseUnixTime(text json.RawMessage) time.Time {
	n, err := strconv.ParseInt(strings.Trim(string(text), `"`), 10, 64)
	if err != nil || n <= 0 || n > 1<<40 {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

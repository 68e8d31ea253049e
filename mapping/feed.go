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
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// MaxFeedSize bounds an answer of the feed, in bytes: 4 MiB. The real one has some 8 KB.
	MaxFeedSize = 4 << 20
	feedTimeout = 10 * time.Second
)

// feed fetches ACTIVE_MODELS_URL. It holds no state; the Catalog does.
type feed struct {
	url    string
	client *http.Client
}

// feedAnswer is a good answer of the feed.
type feedAnswer struct {
	models  []feedModel // never empty
	skipped int         // entries that were no models
	etag    string
	body    []byte
}

// fetch asks for the models, where they are others than the etag's: nil says
// that they are not. Its errors never show the address, which may hold a token.
func (f *feed) fetch(ctx context.Context, etag string) (*feedAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, feedTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return nil, errors.New("mapping: feed: the address is no URL")
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
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxFeedSize+1))
	if err != nil {
		return nil, fmt.Errorf("mapping: feed: %w", err)
	}
	answer, err := parseFeed(body)
	if err != nil {
		return nil, err
	}
	answer.etag = resp.Header.Get("ETag")
	return answer, nil
}

// parseFeed reads {"models":[…]} or a bare array. Deleted models are left out,
// entries that make no sense are counted, and no live model at all is an error:
// an empty answer has wiped tables before.
func parseFeed(body []byte) (*feedAnswer, error) {
	if len(body) > MaxFeedSize {
		return nil, fmt.Errorf("mapping: feed: the answer is larger than %d bytes", MaxFeedSize)
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

	answer := &feedAnswer{body: body}
	seen := make(map[string]bool, len(entries))
	for _, text := range entries {
		m, deleted, ok := parseFeedModel(text)
		switch {
		case !ok || !deleted && seen[m.id]:
			answer.skipped++
		case !deleted:
			seen[m.id] = true
			answer.models = append(answer.models, m)
		}
	}
	if len(answer.models) == 0 {
		return nil, fmt.Errorf("mapping: feed: no live model among %d entries", len(entries))
	}
	return answer, nil
}

func parseFeedModel(text json.RawMessage) (m feedModel, deleted, ok bool) {
	var e struct {
		ID         string `json:"Id"`
		Name       string
		IsDeleted  bool
		ModelType  string
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
	m = feedModel{name: name, id: id, typ: parseType(e.ModelType)}
	for _, venice := range []string{e.Enrichment.VeniceID, e.Enrichment.VeniceID2, e.VeniceID, e.VeniceID2} {
		if venice = strings.TrimSpace(venice); checkName(venice) == "" {
			m.venice = venice
			break
		}
	}
	return m, e.IsDeleted, true
}

// parseType takes a type that nobody knows for Unknown, and none for not stated.
func parseType(s string) Type {
	switch t := Type(strings.ToUpper(s)); t {
	case "", LLM, Embedding, TTS, STT:
		return t
	}
	return Unknown
}

// writeFile replaces a file as a whole, so that no reader meets half of it.
func writeFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

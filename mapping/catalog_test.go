package mapping_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/mapping"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNew_NamesEveryInvalidOptionAndNoPassword(t *testing.T) {
	_, err := mapping.New(mapping.Options{FeedURL: "ftp://user:hunter2@host/x", FileInterval: -1, FeedInterval: -1})
	for _, want := range []string{"FeedURL", "FileInterval", "FeedInterval"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error %v does not name %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error %v shows the password", err)
	}
}

func TestCatalog_HasNoTableWithoutAFile(t *testing.T) {
	c := newCatalog(t, mapping.Options{File: filepath.Join(t.TempDir(), "absent")})
	if _, err := c.Resolve("a", ""); !errors.Is(err, mapping.ErrNotLoaded) {
		t.Errorf("Resolve: error %v, want ErrNotLoaded", err)
	}
	if err := c.Load(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load: error %v, want ErrNotExist", err)
	}
	if h := c.Health(); h.Err == nil || h.ErrAt.IsZero() || h.Entries != 0 || c.Table() != nil {
		t.Errorf("health %+v, table %v; want an error, its time, and no table", h, c.Table())
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Load(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("Load with a cancelled context: error %v, want context.Canceled", err)
	}
}

func TestCatalog_UnknownIsDefault(t *testing.T) {
	for _, tt := range []struct {
		name             string
		unknownIsDefault bool
		asked            string
		want             mapping.Type
		match            string
		isWantedErr      func(error) bool
	}{
		{"without the option, an unknown name is an error", false, "zzz", "", "", isNotFound},
		{"with the option, an unknown name resolves to the default", true, "zzz", mapping.LLM, mapping.MatchFallback, isNil},
		{"a name with suggestions stays an error", true, "modell", "", "", isNotFound},
		{"a known name stays known", true, "MODEL", "", mapping.MatchName, isNil},
		{"a default of another type is an error", true, "zzz", mapping.Embedding, "", isTypeMismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			feed := &fakeFeed{body: `[{"Id":"` + id("a") + `","Name":"A","ModelType":"LLM"}]`}
			c := newCatalog(t, mapping.Options{File: writeMapping(t, id("a")), UnknownIsDefault: tt.unknownIsDefault, FeedURL: "http://feed", HTTPClient: feed.client()})
			if err := errors.Join(c.Load(t.Context()), c.LoadFeed(t.Context())); err != nil {
				t.Fatal(err)
			}
			m, err := c.Resolve(tt.asked, tt.want)
			if !tt.isWantedErr(err) || m.Match != tt.match {
				t.Errorf("Resolve(%q, %q) = %+v, %v; want match %q", tt.asked, tt.want, m, err, tt.match)
			}
		})
	}
}

func TestCatalog_ReloadsTheFileHoweverItIsReplaced(t *testing.T) {
	valid := func(digit string) string { return `{"default":"` + id(digit) + `","model":"` + id(digit) + `"}` }
	for _, tt := range []struct {
		name    string
		replace func(t *testing.T, path, text string)
	}{
		{"in place", overwrite},
		{"in place, with the same size and time", func(t *testing.T, path, text string) {
			info, err := os.Stat(path)
			must(t, err)
			overwrite(t, path, text)
			must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
		}},
		{"by rename", func(t *testing.T, path, text string) {
			overwrite(t, path+".new", text)
			must(t, os.Rename(path+".new", path))
		}},
		{"by Kubernetes' swap of ..data", func(t *testing.T, path, text string) {
			dir := filepath.Dir(path)
			next, err := os.MkdirTemp(dir, "..2026_")
			must(t, err)
			overwrite(t, filepath.Join(next, "model_mappings.json"), text)
			must(t, os.Symlink(filepath.Base(next), filepath.Join(dir, "..data_tmp")))
			must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
			if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeSymlink == 0 {
				_ = os.Remove(path)
				must(t, os.Symlink(filepath.Join("..data", "model_mappings.json"), path))
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "model_mappings.json")
				overwrite(t, path, valid("a"))
				var log bytes.Buffer
				c := newCatalog(t, mapping.Options{File: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				stop := start(t, c)
				wantModel := func(digit string) {
					t.Helper()
					if m, err := c.Resolve("model", ""); err != nil || m.ID != id(digit) {
						t.Fatalf("the name resolves to %s, %v; want %s", m.ID, err, id(digit))
					}
				}
				wantModel("a")
				firstLoad := c.Health().LoadedAt

				tt.replace(t, path, valid("b"))
				time.Sleep(6 * time.Second)
				wantModel("b")
				if at := c.Health().LoadedAt; !at.After(firstLoad) {
					t.Errorf("LoadedAt is %v after a reload, and was %v before", at, firstLoad)
				}

				tt.replace(t, path, `{"default":`)
				time.Sleep(6 * time.Second)
				firstErr := c.Health().ErrAt
				time.Sleep(time.Minute)
				wantModel("b")
				if h := c.Health(); h.Err == nil || firstErr.IsZero() || !h.ErrAt.Equal(firstErr) || h.Entries != 1 {
					t.Errorf("health while the file is invalid: %+v; want an error since %v and one model", h, firstErr)
				}

				tt.replace(t, path, `{"default":"x"}`)
				time.Sleep(6 * time.Second)
				wantModel("b")

				tt.replace(t, path, valid("c"))
				time.Sleep(6 * time.Second)
				wantModel("c")
				must(t, os.Remove(path))
				time.Sleep(time.Minute)
				wantModel("c")
				overwrite(t, path, valid("c"))
				time.Sleep(6 * time.Second)
				if h := c.Health(); h.Err != nil || !h.ErrAt.IsZero() {
					t.Errorf("health after recovery: %+v; want no error", h)
				}
				stop()
				for text, want := range map[string]int{"level=ERROR": 3, "valid again": 2, "mappings loaded": 3} {
					if got := strings.Count(log.String(), text); got != want {
						t.Errorf("%d lines with %q, want %d:\n%s", got, text, want, &log)
					}
				}
			})
		})
	}
}

func TestCatalog_KeepsTheFeedsLastGoodResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := &fakeFeed{etag: `W/"1"`, body: `{"models":[{"Id":"` + id("a") + `","Name":"From Feed","ModelType":"EMBEDDING"},7]}`}
		path := writeMapping(t, id("a"))
		var log bytes.Buffer
		opts := mapping.Options{File: path, FeedURL: "https://feed.example/?token=hunter2", HTTPClient: feed.client(),
			Logger: slog.New(slog.NewTextHandler(&log, nil))}
		c := newCatalog(t, opts)
		stop := start(t, c)
		check := func(state string) {
			t.Helper()
			if _, err := c.Resolve("from-feed", mapping.LLM); !isTypeMismatch(err) {
				t.Errorf("%s: the feed's model: error %v, want a TypeMismatchError", state, err)
			}
			if m, err := c.Resolve("MODEL", ""); err != nil || m.ID != id("a") {
				t.Errorf("%s: the file's model: %+v, %v; want %s", state, m, err, id("a"))
			}
			if h := c.Health(); h.FeedModels != 1 || h.FeedSkipped != 1 || h.Entries != 1 {
				t.Errorf("%s: health %+v; want one model of the feed, one skipped entry, one model", state, h)
			}
		}
		check("after the first response")
		firstFeedAt := c.Health().FeedAt

		time.Sleep(331 * time.Second)
		if etags := feed.requests(); len(etags) != 2 || etags[0] != "" || etags[1] != `W/"1"` {
			t.Errorf("If-None-Match of the requests is %q, want none and W/\"1\"", etags)
		}
		if h := c.Health(); !h.FeedAt.After(firstFeedAt) {
			t.Errorf("after an unchanged response FeedAt is %v, want later than %v", h.FeedAt, firstFeedAt)
		}
		check("while the feed is unchanged")

		feed.set(func(f *fakeFeed) { f.etag, f.body = `"2"`, `{"models":[]}` })
		time.Sleep(331 * time.Second)
		check("while the feed is empty")
		if h := c.Health(); h.FeedErr == nil || h.FeedErrAt.IsZero() || h.Err != nil {
			t.Errorf("while the feed is empty: health %+v; want only a FeedErr", h)
		}
		before := len(feed.requests())
		time.Sleep(100 * time.Second)
		if n := len(feed.requests()) - before; n < 3 {
			t.Errorf("%d requests in 100 s after a failure, want one every 30 s", n)
		}
		feed.set(func(f *fakeFeed) { f.err = errors.New("connection refused") })
		time.Sleep(331 * time.Second)
		check("while the feed refuses connections")
		feed.set(func(f *fakeFeed) { f.err, f.isHanging = nil, true })
		time.Sleep(331 * time.Second)
		check("while the feed hangs")
		if h := c.Health(); !errors.Is(h.FeedErr, context.DeadlineExceeded) {
			t.Errorf("while the feed hangs: FeedErr %v, want DeadlineExceeded", h.FeedErr)
		}
		stop()

		if strings.Contains(log.String(), "hunter2") {
			t.Errorf("the log shows the token:\n%s", &log)
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 3 {
			t.Errorf("%d errors logged, want one for each of 3 problems:\n%s", n, &log)
		}
	})
}

func TestCatalog_RejectsInvalidFeeds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"an error status", 500, `{"models":[]}`, "answered 500"},
		{"not modified without an ETag in the request", 304, "", "answered 304"},
		{"a web page", 200, "<html>", "invalid character"},
		{"an empty body", 200, "", "unexpected end"},
		{"no models", 200, `{}`, "no live model among 0"},
		{"null models", 200, `{"models":null}`, "no live model among 0"},
		{"only deleted models", 200, `[{"Id":"` + id("a") + `","Name":"x","IsDeleted":true}]`, "no live model among 1"},
		{"a body that is too large", 200, "[" + strings.Repeat(" ", mapping.MaxFeedSize) + "]", "larger than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			feed := &fakeFeed{status: tt.status, body: tt.body}
			c := newCatalog(t, mapping.Options{File: writeMapping(t, id("a")), FeedURL: "http://feed", HTTPClient: feed.client()})
			must(t, c.Load(t.Context()))
			if err := c.LoadFeed(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("LoadFeed: error %v, want one with %q", err, tt.want)
			}
			if h := c.Health(); h.FeedErr == nil || !h.FeedAt.IsZero() || h.Entries != 1 {
				t.Errorf("health %+v; want a FeedErr, no FeedAt, and the file's model", h)
			}
		})
	}
}

func TestCatalog_FeedMayBeLoadedBeforeTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model_mappings.json")
	feed := &fakeFeed{body: `[{"Id":"` + id("b") + `","Name":"b"}]`}
	c := newCatalog(t, mapping.Options{File: path, FeedURL: "http://feed", HTTPClient: feed.client()})
	if err := c.LoadFeed(t.Context()); err != nil || c.Table() != nil {
		t.Fatalf("the feed without the file: error %v, table %v; want neither", err, c.Table())
	}
	overwrite(t, path, `{"default":"`+id("a")+`"}`)
	must(t, c.Load(t.Context()))
	if m, err := c.Resolve("b", ""); err != nil || m.ID != id("b") {
		t.Errorf("Resolve = %+v, %v; want the feed's model %s", m, err, id("b"))
	}
}

func TestCatalog_WorksWithoutFeedAndRegistry(t *testing.T) {
	c := newCatalog(t, mapping.Options{File: writeMapping(t, id("a"))})
	must(t, errors.Join(c.LoadFeed(t.Context()), c.LoadRegistry(t.Context())))
}

func TestCatalog_RunContinuesAfterAFailedFirstLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "model_mappings.json")
		c := newCatalog(t, mapping.Options{File: path})
		stop := start(t, c)
		defer stop()
		if _, err := c.Resolve("a", ""); !errors.Is(err, mapping.ErrNotLoaded) || c.Health().Err == nil {
			t.Errorf("without the file: error %v, health %+v; want ErrNotLoaded and an error in both", err, c.Health())
		}
		overwrite(t, path, `{"default":"`+id("a")+`","a":"`+id("a")+`"}`)
		time.Sleep(6 * time.Second)
		if _, err := c.Resolve("a", ""); err != nil {
			t.Errorf("after the file was written: %v", err)
		}
	})
}

func TestCatalog_UsesTheRegistryForWhatTheFeedDoesNotState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inRegistry, inFeed := time.Unix(1_700_000_000, 0).UTC(), time.Unix(1_700_000_001, 0).UTC()
		registryErr := errors.New("no node")
		var isFailing atomic.Bool
		registry := func(context.Context) ([]mapping.Model, error) {
			if isFailing.Load() {
				return nil, registryErr
			}
			return []mapping.Model{
				{ID: id("a"), Type: "LLM", Created: inRegistry},
				{ID: strings.ToUpper(id("b")[2:]), Type: "LLM"}, // no valid id
				{ID: id("c"), Type: "EMBEDDING", Created: inRegistry},
				{ID: id("d"), Type: "UNKNOWN"},
			}, nil
		}
		path := filepath.Join(t.TempDir(), "model_mappings.json")
		overwrite(t, path, `{"default":"`+id("a")+`","chat":"`+id("a")+`","no type":"`+id("b")+`","embed":"`+id("c")+`","untagged":"`+id("d")+`"}`)
		feed := &fakeFeed{err: errors.New("unavailable")}
		c := newCatalog(t, mapping.Options{File: path, FeedURL: "http://feed", HTTPClient: feed.client(), Registry: registry})
		stop := start(t, c)
		defer stop()
		check := func(name string, want mapping.Type, created time.Time) {
			t.Helper()
			if m, err := c.Resolve(name, ""); err != nil || m.Type != want || !m.Created.Equal(created) {
				t.Errorf("%s: %+v, %v; want type %q, created %v", name, m, err, want, created)
			}
		}
		check("chat", mapping.LLM, inRegistry)
		check("embed", mapping.Embedding, inRegistry)
		check("no type", "", time.Time{})
		check("untagged", "", time.Time{})
		if _, err := c.Resolve("embed", mapping.LLM); !isTypeMismatch(err) {
			t.Errorf("an embedding model for a chat: error %v, want a TypeMismatchError", err)
		}
		// The feed works, and states other facts about some models.
		feed.set(func(f *fakeFeed) {
			f.err = nil
			f.body = `[{"Id":"` + id("c") + `","Name":"c","ModelType":"TTS"},{"Id":"` + id("b") + `","Name":"b","ModelType":"STT","CreatedAt":"1700000001"},{"Id":"` + id("d") + `","Name":"d","ModelType":"UNKNOWN","CreatedAt":1700000001}]`
		})
		time.Sleep(331 * time.Second)
		check("embed", mapping.TTS, inRegistry)
		check("no type", mapping.STT, inFeed)
		check("chat", mapping.LLM, inRegistry)
		check("untagged", mapping.Unknown, inFeed)
		isFailing.Store(true)
		time.Sleep(331 * time.Second)
		check("chat", mapping.LLM, inRegistry)
		if h := c.Health(); !errors.Is(h.RegistryErr, registryErr) || h.RegistryModels != 3 || h.RegistryAt.IsZero() || h.RegistryErrAt.IsZero() {
			t.Errorf("while the registry fails: health %+v; want its error, 3 models, and both times", h)
		}
	})
}

func TestCatalog_EmptyRegistryIsAnError(t *testing.T) {
	c := newCatalog(t, mapping.Options{File: writeMapping(t, id("a")), Registry: func(context.Context) ([]mapping.Model, error) {
		return []mapping.Model{{ID: "0x12", Type: "LLM"}}, nil
	}})
	if err := c.LoadRegistry(t.Context()); err == nil || c.Health().RegistryErr == nil {
		t.Errorf("a registry without a valid id: error %v, health %+v; want an error in both", err, c.Health())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.LoadRegistry(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: error %v, want context.Canceled", err)
	}
}

func TestCatalog_FeedFollowsRedirectsOnlyOnItsHost(t *testing.T) {
	models := `[{"Id":"` + id("b") + `","Name":"b"}]`
	for name, c := range map[string]struct {
		from, to   string
		isFollowed bool
	}{
		"on the same host":      {"https://feed.example/a", "https://feed.example/b", true},
		"to another host":       {"https://feed.example/a", "https://evil.example/b", false},
		"to another port":       {"https://feed.example/a", "https://feed.example:8443/b", false},
		"to an internal host":   {"https://feed.example/a", "http://169.254.169.254/latest", false},
		"from https to http":    {"https://feed.example/a", "http://feed.example/b", false},
		"from http to https":    {"http://feed.example/a", "https://feed.example/b", true},
		"to the same URL again": {"https://feed.example/a", "https://feed.example/a", false},
	} {
		t.Run(name, func(t *testing.T) {
			requests := map[string]int{} // by URL
			client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				requests[r.URL.String()]++
				resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(models)), Request: r}
				if r.URL.String() == c.from {
					resp.StatusCode = http.StatusFound
					resp.Header.Set("Location", c.to)
				}
				return resp, nil
			})}
			catalog := newCatalog(t, mapping.Options{File: writeMapping(t, id("a")), FeedURL: c.from, HTTPClient: client})
			if err := catalog.LoadFeed(t.Context()); (err == nil) != c.isFollowed {
				t.Errorf("LoadFeed: error %v; want the redirect followed: %t", err, c.isFollowed)
			}
			if c.from != c.to && requests[c.to] > 0 != c.isFollowed {
				t.Errorf("requests %v; want one to %s: %t", requests, c.to, c.isFollowed)
			}
			if client.CheckRedirect != nil {
				t.Error("the client of the options was changed")
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCatalog_StartsAndStopsManyTimes(t *testing.T) {
	feed := &fakeFeed{body: `[{"Id":"` + id("b") + `","Name":"b"}]`}
	path := writeMapping(t, id("a"))
	c := newCatalog(t, mapping.Options{File: path, FeedURL: "http://feed", HTTPClient: feed.client(), FileInterval: 1, FeedInterval: 1})
	must(t, c.Load(t.Context()))
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = c.Run(ctx) })
		for range 4 {
			wg.Go(func() {
				for range 100 {
					if _, err := c.Resolve("MODEL", mapping.LLM); err != nil {
						t.Errorf("Resolve: %v", err)
					}
					c.Health()
				}
				cancel()
			})
		}
		wg.Wait()
		cancel()
	}
}

// fakeFeed is an http.RoundTripper that responds as the feed does.
type fakeFeed struct {
	mu        sync.Mutex
	status    int // 0 means 200
	etag      string
	body      string
	err       error
	isHanging bool
	etags     []string // If-None-Match of each request
}

func (f *fakeFeed) client() *http.Client { return &http.Client{Transport: f} }

func (f *fakeFeed) set(change func(*fakeFeed)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// requests returns If-None-Match of each request.
func (f *fakeFeed) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.etags)
}

func (f *fakeFeed) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.etags = append(f.etags, r.Header.Get("If-None-Match"))
	if f.isHanging {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if f.err != nil {
		return nil, f.err
	}
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(f.body)), Request: r}
	if f.status != 0 {
		resp.StatusCode = f.status
	}
	if f.etag != "" {
		resp.Header.Set("ETag", f.etag)
		if r.Header.Get("If-None-Match") == f.etag {
			resp.StatusCode, resp.Body = http.StatusNotModified, http.NoBody
		}
	}
	return resp, nil
}

func newCatalog(t *testing.T, opts mapping.Options) *mapping.Catalog {
	t.Helper()
	c, err := mapping.New(opts)
	must(t, err)
	return c
}

// start runs c in a synctest bubble, and waits for its first loads. The test must
// call stop.
func start(t *testing.T, c *mapping.Catalog) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		must(t, <-done)
	}
}

// writeMapping writes a file with one model, "model", which is the default.
func writeMapping(t *testing.T, modelID string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model_mappings.json")
	overwrite(t, path, `{"default":"`+modelID+`","model":"`+modelID+`"}`)
	return path
}

func overwrite(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

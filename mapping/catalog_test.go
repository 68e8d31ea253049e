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

func TestNew_NamesEveryWrongOptionAndNoSecret(t *testing.T) {
	_, err := mapping.New(mapping.Options{FeedURL: "ftp://user:hunter2@host/x", FileInterval: -1, FeedInterval: -1})
	for _, want := range []string{"FeedURL", "FileInterval", "FeedInterval"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v shows a password", err)
	}
}

func TestCatalog_ResolvesNothingWithoutAFile(t *testing.T) {
	c := newCatalog(t, mapping.Options{File: filepath.Join(t.TempDir(), "absent")})
	if _, err := c.Resolve("a", ""); !errors.Is(err, mapping.ErrNotLoaded) {
		t.Errorf("Resolve: %v", err)
	}
	if err := c.Load(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load: %v", err)
	}
	if h := c.Health(); h.Err == nil || h.ErrAt.IsZero() || h.Entries != 0 || c.Table() != nil {
		t.Errorf("Health: %+v", h)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Load(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("Load after the end: %v", err)
	}
}

func TestCatalog_UnknownNameIsTheDefaultOnlyWhereChosen(t *testing.T) {
	for _, tt := range []struct {
		name     string
		chosen   bool
		asked    string
		want     mapping.Type
		match    string
		isWanted func(error) bool
	}{
		{"rejected", false, "zzz", "", "", isNotFound},
		{"replaced, and it shows", true, "zzz", mapping.LLM, mapping.MatchFallback, isNil},
		{"a near miss is never replaced", true, "modell", "", "", isNotFound},
		{"a hit stays a hit", true, "MODEL", "", mapping.MatchName, isNil},
		{"the default must fit as well", true, "zzz", mapping.Embedding, "", isTypeMismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			feed := &fakeFeed{body: `[{"Id":"` + id("a") + `","Name":"A","ModelType":"LLM"}]`}
			c := newCatalog(t, mapping.Options{File: writeMapping(t, id("a")), UnknownIsDefault: tt.chosen, FeedURL: "http://feed", HTTPClient: feed.client()})
			if err := errors.Join(c.Load(t.Context()), c.LoadFeed(t.Context())); err != nil {
				t.Fatal(err)
			}
			m, err := c.Resolve(tt.asked, tt.want)
			if !tt.isWanted(err) || m.Match != tt.match {
				t.Errorf("Resolve = %+v, %v", m, err)
			}
		})
	}
}

func TestCatalog_FollowsTheFileHoweverItIsReplaced(t *testing.T) {
	valid := func(digit string) string { return `{"default":"` + id(digit) + `","model":"` + id(digit) + `"}` }
	for _, tt := range []struct {
		name    string
		replace func(t *testing.T, path, text string)
	}{
		{"in place", overwrite},
		{"in place, same size, its time kept", func(t *testing.T, path, text string) {
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
				serves := func(digit string) {
					t.Helper()
					if m, err := c.Resolve("model", ""); err != nil || m.ID != id(digit) {
						t.Fatalf("serves %s, %v; want %s", m.ID, err, digit)
					}
				}
				serves("a")
				loaded := c.Health().LoadedAt

				tt.replace(t, path, valid("b"))
				time.Sleep(6 * time.Second)
				serves("b")
				if at := c.Health().LoadedAt; !at.After(loaded) {
					t.Errorf("loaded at %v, before at %v", at, loaded)
				}

				tt.replace(t, path, `{"default":`)
				time.Sleep(6 * time.Second)
				met := c.Health().ErrAt
				time.Sleep(time.Minute)
				serves("b")
				if h := c.Health(); h.Err == nil || met.IsZero() || !h.ErrAt.Equal(met) || h.Entries != 1 {
					t.Errorf("Health while the file is bad: %+v", h)
				}

				tt.replace(t, path, `{"default":"x"}`)
				time.Sleep(6 * time.Second)
				serves("b")

				tt.replace(t, path, valid("c"))
				time.Sleep(6 * time.Second)
				serves("c")
				must(t, os.Remove(path))
				time.Sleep(time.Minute)
				serves("c")
				overwrite(t, path, valid("c"))
				time.Sleep(6 * time.Second)
				if h := c.Health(); h.Err != nil || !h.ErrAt.IsZero() {
					t.Errorf("Health after recovery: %+v", h)
				}
				stop()
				for text, want := range map[string]int{"level=ERROR": 3, "good again": 2, "mappings loaded": 3} {
					if got := strings.Count(log.String(), text); got != want {
						t.Errorf("%d lines with %q, want %d:\n%s", got, text, want, &log)
					}
				}
			})
		})
	}
}

func TestCatalog_FeedIsAskedConditionallyAndNeverHarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := &fakeFeed{etag: `W/"1"`, body: `{"models":[{"Id":"` + id("a") + `","Name":"From Feed","ModelType":"EMBEDDING"},7]}`}
		path := writeMapping(t, id("a"))
		var log bytes.Buffer
		opts := mapping.Options{File: path, FeedURL: "https://feed.example/?token=hunter2", HTTPClient: feed.client(),
			Logger: slog.New(slog.NewTextHandler(&log, nil))}
		c := newCatalog(t, opts)
		stop := start(t, c)
		check := func(when string) {
			t.Helper()
			if _, err := c.Resolve("from-feed", mapping.LLM); !isTypeMismatch(err) {
				t.Errorf("%s: the feed's model: %v", when, err)
			}
			if m, err := c.Resolve("MODEL", ""); err != nil || m.ID != id("a") {
				t.Errorf("%s: the file's model: %+v, %v", when, m, err)
			}
			if h := c.Health(); h.FeedModels != 1 || h.FeedSkipped != 1 || h.Entries != 1 {
				t.Errorf("%s: Health: %+v", when, h)
			}
		}
		check("at first")
		began := c.Health().FeedAt

		time.Sleep(331 * time.Second)
		if seen := feed.requests(); len(seen) != 2 || seen[0] != "" || seen[1] != `W/"1"` {
			t.Errorf("If-None-Match of the requests: %q", seen)
		}
		if h := c.Health(); !h.FeedAt.After(began) {
			t.Errorf("unchanged is current too: %+v", h)
		}
		check("unchanged")

		feed.set(func(f *fakeFeed) { f.etag, f.body = `"2"`, `{"models":[]}` })
		time.Sleep(331 * time.Second)
		check("empty")
		if h := c.Health(); h.FeedErr == nil || h.FeedErrAt.IsZero() || h.Err != nil {
			t.Errorf("Health: %+v", h)
		}
		before := len(feed.requests())
		time.Sleep(100 * time.Second)
		if n := len(feed.requests()) - before; n < 3 {
			t.Errorf("%d tries in 100 s after a failure, want one in 30 s", n)
		}
		feed.set(func(f *fakeFeed) { f.err = errors.New("connection refused") })
		time.Sleep(331 * time.Second)
		check("away")
		feed.set(func(f *fakeFeed) { f.err, f.hang = nil, true })
		time.Sleep(331 * time.Second)
		check("hanging")
		if h := c.Health(); !errors.Is(h.FeedErr, context.DeadlineExceeded) {
			t.Errorf("Health: %+v", h)
		}
		stop()

		if strings.Contains(log.String(), "hunter2") {
			t.Errorf("the log shows a token:\n%s", &log)
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 3 {
			t.Errorf("%d errors logged, want one for each of 3 problems:\n%s", n, &log)
		}
	})
}

func TestCatalog_RefusesMalformedFeeds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"an error", 500, `{"models":[]}`, "answered 500"},
		{"not modified, though nothing was known", 304, "", "answered 304"},
		{"a web page", 200, "<html>", "invalid character"},
		{"nothing", 200, "", "unexpected end"},
		{"no models", 200, `{}`, "no live model among 0"},
		{"null models", 200, `{"models":null}`, "no live model among 0"},
		{"only deleted models", 200, `[{"Id":"` + id("a") + `","Name":"x","IsDeleted":true}]`, "no live model among 1"},
		{"too much", 200, "[" + strings.Repeat(" ", mapping.MaxFeedSize) + "]", "larger than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			feed := &fakeFeed{status: tt.status, body: tt.body}
			c := newCatalog(t, mapping.Options{File: writeMapping(t, id("a")), FeedURL: "http://feed", HTTPClient: feed.client()})
			must(t, c.Load(t.Context()))
			if err := c.LoadFeed(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("LoadFeed: %v, want %q", err, tt.want)
			}
			if h := c.Health(); h.FeedErr == nil || !h.FeedAt.IsZero() || h.Entries != 1 {
				t.Errorf("Health: %+v", h)
			}
		})
	}
}

func TestCatalog_FeedMayComeBeforeTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model_mappings.json")
	feed := &fakeFeed{body: `[{"Id":"` + id("b") + `","Name":"b"}]`}
	c := newCatalog(t, mapping.Options{File: path, FeedURL: "http://feed", HTTPClient: feed.client()})
	if err := c.LoadFeed(t.Context()); err != nil || c.Table() != nil {
		t.Fatalf("the feed alone: %v, %v", err, c.Table())
	}
	overwrite(t, path, `{"default":"`+id("a")+`"}`)
	must(t, c.Load(t.Context()))
	if m, err := c.Resolve("b", ""); err != nil || m.ID != id("b") {
		t.Errorf("Resolve = %+v, %v", m, err)
	}
	c = newCatalog(t, mapping.Options{File: path})
	must(t, errors.Join(c.LoadFeed(t.Context()), c.LoadRegistry(t.Context()))) // neither is there, nothing to do
}

func TestCatalog_RunContinuesAfterAFirstLoadThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "model_mappings.json")
		c := newCatalog(t, mapping.Options{File: path})
		stop := start(t, c)
		defer stop()
		if _, err := c.Resolve("a", ""); !errors.Is(err, mapping.ErrNotLoaded) || c.Health().Err == nil {
			t.Errorf("without the file: %v, %+v", err, c.Health())
		}
		overwrite(t, path, `{"default":"`+id("a")+`","a":"`+id("a")+`"}`)
		time.Sleep(6 * time.Second)
		if _, err := c.Resolve("a", ""); err != nil {
			t.Error(err)
		}
	})
}

func TestCatalog_TypesComeFromTheFeedOrElseFromTheRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		born, reborn := time.Unix(1_700_000_000, 0).UTC(), time.Unix(1_700_000_001, 0).UTC()
		failure, failing := errors.New("no node"), atomic.Bool{}
		registry := func(context.Context) ([]mapping.Model, error) {
			return []mapping.Model{
				{ID: id("a"), Type: "LLM", Created: born}, {ID: strings.ToUpper(id("b")[2:]), Type: "LLM"}, {ID: id("c"), Type: "EMBEDDING", Created: born},
				{ID: id("d"), Type: "UNKNOWN"},
			}, map[bool]error{true: failure}[failing.Load()]
		}
		path := filepath.Join(t.TempDir(), "model_mappings.json")
		overwrite(t, path, `{"default":"`+id("a")+`","chat":"`+id("a")+`","no type":"`+id("b")+`","embed":"`+id("c")+`","untagged":"`+id("d")+`"}`)
		feed := &fakeFeed{err: errors.New("away")}
		c := newCatalog(t, mapping.Options{File: path, FeedURL: "http://feed", HTTPClient: feed.client(), Registry: registry})
		stop := start(t, c)
		defer stop()
		check := func(name string, want mapping.Type, created time.Time) {
			t.Helper()
			if m, err := c.Resolve(name, ""); err != nil || m.Type != want || !m.Created.Equal(created) {
				t.Errorf("%s: %+v, %v; want %s of %v", name, m, err, want, created)
			}
		}
		check("chat", mapping.LLM, born)
		check("embed", mapping.Embedding, born)
		check("no type", "", time.Time{})
		check("untagged", "", time.Time{}) // which passes in a chat
		if _, err := c.Resolve("embed", mapping.LLM); !isTypeMismatch(err) {
			t.Errorf("an embedding model in a chat: %v", err)
		}
		// The feed comes, and says otherwise about some.
		feed.set(func(f *fakeFeed) {
			f.err = nil
			f.body = `[{"Id":"` + id("c") + `","Name":"c","ModelType":"TTS"},{"Id":"` + id("b") + `","Name":"b","ModelType":"STT","CreatedAt":"1700000001"},{"Id":"` + id("d") + `","Name":"d","ModelType":"UNKNOWN","CreatedAt":1700000001}]`
		})
		time.Sleep(331 * time.Second)
		check("embed", mapping.TTS, born)
		check("no type", mapping.STT, reborn)
		check("chat", mapping.LLM, born)
		check("untagged", mapping.Unknown, reborn)
		failing.Store(true)
		time.Sleep(331 * time.Second)
		check("chat", mapping.LLM, born)
		if h := c.Health(); !errors.Is(h.RegistryErr, failure) || h.RegistryModels != 3 || h.RegistryAt.IsZero() || h.RegistryErrAt.IsZero() {
			t.Errorf("%+v", h)
		}
	})
}

func TestCatalog_EmptyRegistryIsAnError(t *testing.T) {
	c := newCatalog(t, mapping.Options{File: writeMapping(t, id("a")), Registry: func(context.Context) ([]mapping.Model, error) {
		return []mapping.Model{{ID: "0x12", Type: "LLM"}}, nil
	}})
	if err := c.LoadRegistry(t.Context()); err == nil || c.Health().RegistryErr == nil {
		t.Errorf("%v, %+v", err, c.Health())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.LoadRegistry(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who left: %v", err)
	}
}

func TestCatalog_FeedFollowsNoRedirectToAnotherHost(t *testing.T) {
	models := `[{"Id":"` + id("b") + `","Name":"b"}]`
	for name, c := range map[string]struct {
		from, to string
		followed bool
	}{
		"on the same host":          {"https://feed.example/a", "https://feed.example/b", true},
		"to another host":           {"https://feed.example/a", "https://evil.example/b", false},
		"to another port":           {"https://feed.example/a", "https://feed.example:8443/b", false},
		"to a host inside":          {"https://feed.example/a", "http://169.254.169.254/latest", false},
		"from https to http":        {"https://feed.example/a", "http://feed.example/b", false},
		"from http to https":        {"http://feed.example/a", "https://feed.example/b", true},
		"for ever on the same host": {"https://feed.example/a", "https://feed.example/a", false},
	} {
		t.Run(name, func(t *testing.T) {
			asked := map[string]int{}
			client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				asked[r.URL.String()]++
				resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(models)), Request: r}
				if r.URL.String() == c.from {
					resp.StatusCode = http.StatusFound
					resp.Header.Set("Location", c.to)
				}
				return resp, nil
			})}
			catalog := newCatalog(t, mapping.Options{File: writeMapping(t, id("a")), FeedURL: c.from, HTTPClient: client})
			if err := catalog.LoadFeed(t.Context()); (err == nil) != c.followed {
				t.Errorf("LoadFeed: %v", err)
			}
			if c.from != c.to && asked[c.to] > 0 != c.followed {
				t.Errorf("asked %v", asked)
			}
			if client.CheckRedirect != nil {
				t.Error("the host's client was changed")
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCatalog_StartsAndStopsUnderLoad(t *testing.T) {
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
						t.Error(err)
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

// fakeFeed is the feed without a network.
type fakeFeed struct {
	mu     sync.Mutex
	status int
	etag   string
	body   string
	err    error
	hang   bool
	asked  []string
}

func (f *fakeFeed) client() *http.Client { return &http.Client{Transport: f} }

func (f *fakeFeed) set(change func(*fakeFeed)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeFeed) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.asked...)
}

func (f *fakeFeed) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r.Header.Get("If-None-Match"))
	if f.hang {
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

// start runs c inside a synctest bubble until the function it returns is called.
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

func writeMapping(t *testing.T, modelID string) string {
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

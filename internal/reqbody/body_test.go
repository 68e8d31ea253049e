package reqbody_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
	"github.com/MorpheusAIs/gateway-automation/internal/reqbody"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleBody() {
	budget := reqbody.NewBudget(256 << 20)
	handler := func(w http.ResponseWriter, r *http.Request) {
		body := reqbody.New(w, r, reqbody.Options{MaxBytes: 32 << 20, Budget: budget})
		defer body.Close()
		model, err := body.Model()
		fmt.Println(model, err)
		text, err := body.Bytes()
		fmt.Printf("%s %v\n", text, err)
	}
	handler(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"model":"llama","messages":[]}`)))
	// Output:
	// llama <nil>
	// {"model":"llama","messages":[]} <nil>
}

// chunkings are the ways in which the bytes of a body may arrive.
var chunkings = map[string]func(io.Reader) io.Reader{
	"at once":          func(r io.Reader) io.Reader { return r },
	"byte by byte":     iotest.OneByteReader,
	"half by half":     iotest.HalfReader,
	"EOF with data":    iotest.DataErrReader,
	"byte, EOF with":   func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) },
	"with empty reads": func(r io.Reader) io.Reader { return &stutter{r: r} },
}

// stutter returns no bytes at every other read.
type stutter struct {
	r    io.Reader
	skip bool
}

func (s *stutter) Read(p []byte) (int, error) {
	s.skip = !s.skip
	if s.skip {
		return 0, nil
	}
	return s.r.Read(p)
}

// request returns a request with a body; a length of -1 is unknown.
func request(body io.Reader, length int64) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", io.NopCloser(body))
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = length
	return r
}

func TestBody_IsReadOnceAndWhole(t *testing.T) {
	long := `{"x":"` + strings.Repeat("y", 300<<10) + `","model":"m"}`
	for name, chunking := range chunkings {
		for _, text := range []string{`{"model":"m"}`, `{"model":"m","x":"` + strings.Repeat("y", 300<<10) + `"}`, long} {
			if strings.HasPrefix(name, "byte") && len(text) > 64<<10 {
				continue // too slow, and the other chunkings split a long body often enough
			}
			for _, known := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, %d bytes, length known %t", name, len(text), known), func(t *testing.T) {
					length := int64(-1)
					if known {
						length = int64(len(text))
					}
					open := func() (*reqbody.Body, *reqbody.Budget) {
						budget := reqbody.NewBudget(4 << 20)
						body := reqbody.New(httptest.NewRecorder(), request(chunking(strings.NewReader(text)), length), reqbody.Options{MaxBytes: 1 << 20, Budget: budget})
						if model, err := body.Model(); err != nil || model != "m" {
							t.Fatalf("model %q, error %v; want m", model, err)
						}
						return body, budget
					}
					body, budget := open()
					got, err := body.Bytes()
					if err != nil || string(got) != text {
						t.Errorf("Bytes returned %d of %d bytes, error %v", len(got), len(text), err)
					}
					if used := budget.Used(); used != int64(cap(got)) || known && used != length {
						t.Errorf("%d bytes are reserved for a body of %d in a buffer of %d", used, len(got), cap(got))
					}
					body.Close()
					if used := budget.Used(); used != 0 || string(got) != text {
						t.Errorf("after Close %d bytes are reserved, and the body is unchanged: %t; want 0, true", used, string(got) == text)
					}

					body, budget = open()
					got, err = io.ReadAll(body.Reader())
					if err != nil || string(got) != text {
						t.Errorf("Reader returned %d of %d bytes, error %v", len(got), len(text), err)
					}
					body.Close()
					if used := budget.Used(); used != 0 {
						t.Errorf("after Close %d bytes are reserved, want 0", used)
					}
				})
			}
		}
	}
}

func TestBody_ModelReadsOnlyWhatItNeeds(t *testing.T) {
	failure := errors.New("read too far")
	r := request(io.MultiReader(strings.NewReader(`{"model":"m",`), iotest.ErrReader(failure)), -1)
	body := reqbody.New(httptest.NewRecorder(), r, reqbody.Options{MaxBytes: 1 << 20, Budget: reqbody.NewBudget(1 << 20)})
	defer body.Close()
	if model, err := body.Model(); err != nil || model != "m" {
		t.Errorf("model %q, error %v; want m", model, err)
	}
	if _, err := body.Bytes(); !errors.Is(err, failure) {
		t.Errorf("Bytes: error %v, want %v", err, failure)
	}
}

func TestBody_ClassifiesErrors(t *testing.T) {
	cause := errors.New("connection lost")
	for name, tt := range map[string]struct {
		body   io.Reader
		length int64
		want   error
		rest   string // what Reader gives another handler
	}{
		"not JSON":                          {strings.NewReader("x"), 1, modelscan.ErrSyntax, "x"},
		"a number for a model":              {strings.NewReader(`{"model":1}`), 11, modelscan.ErrNoString, `{"model":1}`},
		"an end that comes too early":       {strings.NewReader(`{"x":`), -1, modelscan.ErrSyntax, `{"x":`},
		"a lost connection":                 {io.MultiReader(strings.NewReader(`{"x":`), iotest.ErrReader(cause)), -1, cause, `{"x":`},
		"a known length over the limit":     {strings.NewReader(`{"x":"` + strings.Repeat("y", 2<<20)), 2<<20 + 6, reqbody.ErrTooLarge, ""},
		"a body over the limit":             {strings.NewReader(`{"x":"` + strings.Repeat("y", 1<<20)), -1, reqbody.ErrTooLarge, ""},
		"a body longer than its length":     {strings.NewReader(`{"x":1,"model":"m"}`), 6, reqbody.ErrTooLarge, ""},
		"a body that exceeds the budget":    {strings.NewReader(`{"x":"` + strings.Repeat("y", 1<<19) + `","model":"m"}`), 1<<19 + 19, reqbody.ErrOverBudget, ""},
		"a body of unknown length does too": {strings.NewReader(`{"x":"` + strings.Repeat("y", 1<<19) + `","model":"m"}`), -1, reqbody.ErrOverBudget, ""},
		"a reader that makes no progress":   {iotest.ErrReader(io.ErrNoProgress), -1, io.ErrNoProgress, ""},
		"a body as long as the limit is ok": {strings.NewReader(`{"x":1}`), 7, nil, `{"x":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			budget := reqbody.NewBudget(1 << 22)
			options := reqbody.Options{MaxBytes: 1 << 20, Budget: budget}
			if errors.Is(tt.want, reqbody.ErrOverBudget) {
				options.Budget = reqbody.NewBudget(1 << 18)
			}
			if tt.want == nil {
				options.MaxBytes = 7
			}
			body := reqbody.New(httptest.NewRecorder(), request(tt.body, tt.length), options)
			defer body.Close()
			if _, err := body.Model(); !errors.Is(err, tt.want) {
				t.Errorf("Model: error %v, want %v", err, tt.want)
			}
			rest, err := io.ReadAll(body.Reader())
			if tt.rest != "" && string(rest) != tt.rest {
				t.Errorf("Reader returned %q, error %v; want %q", rest, err, tt.rest)
			}
			if errors.Is(tt.want, cause) && !errors.Is(err, cause) {
				t.Errorf("Reader returned the error %v, want that of the first read: %v", err, cause)
			}
		})
	}
}

func TestReader_ReturnsMoreThanModelMayRead(t *testing.T) {
	for _, length := range []int64{1<<20 + 15, -1} {
		text := `{"model":"m",` + strings.Repeat(" ", 1<<20) + "}}"
		body := reqbody.New(httptest.NewRecorder(), request(strings.NewReader(text), length), reqbody.Options{MaxBytes: 1 << 10, Budget: reqbody.NewBudget(1 << 22)})
		if model, err := body.Model(); err != nil || model != "m" {
			t.Errorf("model %q, error %v; want m", model, err)
		}
		if got, err := io.ReadAll(body.Reader()); string(got) != text || err != nil {
			t.Errorf("Reader returned %d of %d bytes, error %v", len(got), len(text), err)
		}
		body.Close()
	}
}

// A server closes a request's body when the response has begun. A transport that forwards the
// body may read beyond its last byte after that, which fails.
func TestReader_DoesNotReadBeyondTheAnnouncedLength(t *testing.T) {
	text := `{"model":"m","x":"` + strings.Repeat("y", 300<<10) + `"}`
	closed := io.MultiReader(strings.NewReader(text), iotest.ErrReader(http.ErrBodyReadAfterClose))
	body := reqbody.New(httptest.NewRecorder(), request(closed, int64(len(text))), reqbody.Options{MaxBytes: 1 << 20, Budget: reqbody.NewBudget(1 << 22)})
	defer body.Close()
	if model, err := body.Model(); err != nil || model != "m" {
		t.Fatalf("model %q, error %v; want m", model, err)
	}
	if got, err := io.ReadAll(body.Reader()); string(got) != text || err != nil {
		t.Errorf("Reader returned %d of %d bytes, error %v", len(got), len(text), err)
	}
}

func TestBody_RejectsATooLargeContentLengthUnread(t *testing.T) {
	body := reqbody.New(httptest.NewRecorder(), request(iotest.ErrReader(errors.New("was read")), 2<<20), reqbody.Options{MaxBytes: 1 << 20, Budget: reqbody.NewBudget(1 << 22)})
	defer body.Close()
	if _, err := body.Bytes(); !errors.Is(err, reqbody.ErrTooLarge) {
		t.Errorf("error %v, want ErrTooLarge", err)
	}
}

func TestBody_ReservesNoMemoryForContentLengthAlone(t *testing.T) {
	budget := reqbody.NewBudget(64 << 20)
	r, w := io.Pipe()
	body := reqbody.New(httptest.NewRecorder(), request(r, 32<<20), reqbody.Options{MaxBytes: 32 << 20, Budget: budget})
	defer body.Close()
	read := make(chan struct{})
	go func() {
		_, _ = body.Bytes()
		close(read)
	}()
	_, _ = w.Write(make([]byte, 60<<10))
	if used := budget.Used(); used > 64<<10 {
		t.Errorf("%d bytes are reserved for the 60 KiB that were sent, want at most 64 KiB", used)
	}
	_ = w.Close()
	<-read
}

func TestBody_CanBeClosedTwiceAndUnread(t *testing.T) {
	budget := reqbody.NewBudget(1 << 20)
	body := reqbody.New(httptest.NewRecorder(), request(strings.NewReader("x"), 1), reqbody.Options{MaxBytes: 1, Budget: budget})
	body.Close()
	body.Close()
	if _, err := body.Bytes(); !errors.Is(err, http.ErrBodyReadAfterClose) || budget.Used() != 0 {
		t.Errorf("Bytes after Close: error %v, %d bytes reserved; want http.ErrBodyReadAfterClose, 0", err, budget.Used())
	}
	r := request(nil, 0)
	r.Body = nil
	body = reqbody.New(httptest.NewRecorder(), r, reqbody.Options{MaxBytes: 1, Budget: budget})
	defer body.Close()
	if got, err := body.Bytes(); err != nil || len(got) != 0 {
		t.Errorf("Bytes of a nil body: %q, error %v; want none", got, err)
	}
}

// upload is a connection whose reads fail once a read deadline is set.
type upload struct {
	*httptest.ResponseRecorder
	*io.PipeReader
}

func (u *upload) SetReadDeadline(time.Time) error {
	return u.CloseWithError(errors.New("a deadline has passed"))
}

func TestBody_EndsReadingFromClientsThatSendSlowly(t *testing.T) {
	for name, tt := range map[string]struct {
		each time.Duration // between two chunks of 1 KiB
		want error
		took time.Duration
	}{
		"a client that sends nothing":        {time.Hour, reqbody.ErrTooSlow, 10 * time.Second},
		"a client just below the minimum":    {1100 * time.Millisecond, reqbody.ErrTooSlow, 10 * time.Second},
		"not a client just over the minimum": {900 * time.Millisecond, nil, 90 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				u := &upload{httptest.NewRecorder(), r}
				go func() {
					for range 100 {
						time.Sleep(tt.each)
						if _, err := w.Write(make([]byte, 1<<10)); err != nil {
							return
						}
					}
					_ = w.Close()
				}()
				body := reqbody.New(u, request(r, 100<<10), reqbody.Options{MaxBytes: 1 << 20, Budget: reqbody.NewBudget(1 << 20)})
				started := time.Now()
				_, err := body.Bytes()
				if took := time.Since(started); !errors.Is(err, tt.want) || took != tt.took {
					t.Errorf("error %v after %v, want %v after %v", err, took, tt.want, tt.took)
				}
				body.Close()
				time.Sleep(time.Hour)
			})
		})
	}
	t.Run("not while the handler does not read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			u := &upload{httptest.NewRecorder(), r}
			go func() {
				_, _ = io.WriteString(w, `{"model":"m",`)
				_, _ = io.WriteString(w, `"x":1}`)
				_ = w.Close()
			}()
			body := reqbody.New(u, request(r, -1), reqbody.Options{MaxBytes: 1 << 20, Budget: reqbody.NewBudget(1 << 20)})
			defer body.Close()
			if _, err := body.Model(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour) // such as while a session is opened
			if got, err := body.Bytes(); err != nil || string(got) != `{"model":"m","x":1}` {
				t.Errorf("Bytes: %q, error %v; want the whole body", got, err)
			}
		})
	})
}

// The connection is real, because LimitUnread sets its read deadline.
func TestLimitUnread_EndsConnectionsThatSendSlowly(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reqbody.LimitUnread(w, time.Millisecond)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer server.Close()
	r, w := io.Pipe()
	defer w.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, r)
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = 100
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatalf("no response (without LimitUnread the server waits for the body): %v", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusUnauthorized || !response.Close {
		t.Errorf("status %d, the connection is closed: %t; want 401, true", response.StatusCode, response.Close)
	}
}

// Waves of large bodies of different sizes must not make the heap grow beyond the
// budget and the garbage that Budget allows.
func TestBudget_BoundsMemoryOverManyBodies(t *testing.T) {
	const budgetBytes = 64 << 20
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as a host may
	budget := reqbody.NewBudget(budgetBytes)
	base := heapInUse()
	var mu sync.Mutex
	var peak uint64
	rejected := 0
	for wave := range 8 {
		held := make(chan struct{})
		var all, read sync.WaitGroup
		for i := range 16 {
			read.Add(1)
			all.Go(func() {
				size := int64(4+wave+i%3) << 20
				body := reqbody.New(httptest.NewRecorder(), request(io.LimitReader(zeros{}, size), size), reqbody.Options{MaxBytes: 32 << 20, Budget: budget})
				defer body.Close()
				_, err := body.Bytes()
				used := heapInUse()
				mu.Lock()
				peak = max(peak, used)
				if errors.Is(err, reqbody.ErrOverBudget) {
					rejected++
				} else if err != nil {
					t.Error(err)
				}
				mu.Unlock()
				read.Done()
				<-held
			})
		}
		read.Wait()
		close(held)
		all.Wait()
	}
	t.Logf("peak %d MiB over a base of %d MiB, %d bodies of 128 rejected", peak>>20, base>>20, rejected)
	if rejected == 0 || rejected == 128 {
		t.Errorf("%d of 128 bodies were rejected, want some but not all", rejected)
	}
	if grown := peak - min(base, peak); grown > budgetBytes+64<<20 {
		t.Errorf("the heap grew by %d MiB, want at most %d", grown>>20, budgetBytes>>20+64)
	}
	if used := budget.Used(); used != 0 {
		t.Errorf("%d bytes are still reserved, want 0", used)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func BenchmarkBody(b *testing.B) {
	for _, size := range []int{1 << 10, 5 << 20} {
		for _, known := range []bool{true, false} {
			text := []byte(`{"messages":"` + strings.Repeat("x", size) + `","model":"m"}`)
			b.Run(fmt.Sprintf("%dKB/known=%t", size>>10, known), func(b *testing.B) {
				budget := reqbody.NewBudget(256 << 20)
				reader := bytes.NewReader(nil)
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				r := request(reader, int64(len(text)))
				if !known {
					r.ContentLength = -1
				}
				for b.Loop() {
					reader.Reset(text)
					body := reqbody.New(httptest.NewRecorder(), r, reqbody.Options{MaxBytes: 32 << 20, Budget: budget})
					if model, err := body.Model(); err != nil || model != "m" {
						b.Fatalf("model %q, error %v; want m", model, err)
					}
					if _, err := body.Bytes(); err != nil {
						b.Fatal(err)
					}
					body.Close()
				}
			})
		}
	}
}

// BenchmarkThirtyBodiesOf30MB reports the size of the heap while all bodies are held
// at once, as a multiple of their size.
func BenchmarkThirtyBodiesOf30MB(b *testing.B) {
	const bodies, size = 30, int64(30 << 20)
	for b.Loop() {
		budget := reqbody.NewBudget(bodies*size + 64<<20) // a body that grows needs both buffers for a moment
		base := heapInUse()
		held := make(chan struct{})
		var all, read sync.WaitGroup
		read.Add(bodies)
		for range bodies {
			all.Go(func() {
				body := reqbody.New(httptest.NewRecorder(), request(io.LimitReader(zeros{}, size), size), reqbody.Options{MaxBytes: 32 << 20, Budget: budget})
				defer body.Close()
				if _, err := body.Bytes(); err != nil {
					b.Error(err)
				}
				read.Done()
				<-held
			})
		}
		read.Wait()
		b.ReportMetric((float64(heapInUse())-float64(base))/float64(bodies*size), "heap/bodies")
		close(held)
		all.Wait()
	}
}

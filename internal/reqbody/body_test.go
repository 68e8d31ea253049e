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

// chunkings are the ways in which a body may be read.
var chunkings = map[string]func(io.Reader) io.Reader{
	"whole":            func(r io.Reader) io.Reader { return r },
	"byte by byte":     iotest.OneByteReader,
	"half by half":     iotest.HalfReader,
	"end with data":    iotest.DataErrReader,
	"byte, end with":   func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) },
	"with empty reads": func(r io.Reader) io.Reader { return &stutter{r: r} },
}

// stutter returns no bytes at every other read.
type stutter struct {
	r    io.Reader
	turn bool
}

func (s *stutter) Read(p []byte) (int, error) {
	s.turn = !s.turn
	if s.turn {
		return 0, nil
	}
	return s.r.Read(p)
}

// request is one with a body of a length that is known or not.
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
				continue // a long body is cut often enough in other ways
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
							t.Fatal(model, err)
						}
						return body, budget
					}
					body, budget := open()
					got, err := body.Bytes()
					if err != nil || string(got) != text {
						t.Errorf("Bytes: %d bytes of %d, %v", len(got), len(text), err)
					}
					if used := budget.Used(); used != int64(cap(got)) || known && used != length {
						t.Errorf("%d bytes are taken for %d", used, len(got))
					}
					body.Close()
					if used := budget.Used(); used != 0 || string(got) != text {
						t.Errorf("%d bytes are taken after Close", used)
					}

					body, budget = open()
					got, err = io.ReadAll(body.Reader())
					if err != nil || string(got) != text {
						t.Errorf("Reader: %d bytes of %d, %v", len(got), len(text), err)
					}
					body.Close()
					if used := budget.Used(); used != 0 {
						t.Errorf("%d bytes are taken after Close", used)
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
		t.Error(model, err)
	}
	if _, err := body.Bytes(); !errors.Is(err, failure) {
		t.Error(err)
	}
}

func TestBody_SaysWhatIsWrong(t *testing.T) {
	cause := errors.New("connection lost")
	for name, tt := range map[string]struct {
		body   io.Reader
		length int64
		want   error
		rest   string // what another handler gets
	}{
		"no JSON":                           {strings.NewReader("x"), 1, modelscan.ErrSyntax, "x"},
		"a number for a model":              {strings.NewReader(`{"model":1}`), 11, modelscan.ErrNoString, `{"model":1}`},
		"an end that comes too early":       {strings.NewReader(`{"x":`), -1, modelscan.ErrSyntax, `{"x":`},
		"a connection that breaks":          {io.MultiReader(strings.NewReader(`{"x":`), iotest.ErrReader(cause)), -1, cause, `{"x":`},
		"a body of known length over it":    {strings.NewReader(`{"x":"` + strings.Repeat("y", 2<<20)), 2<<20 + 6, reqbody.ErrTooLarge, ""},
		"a body over the limit":             {strings.NewReader(`{"x":"` + strings.Repeat("y", 1<<20)), -1, reqbody.ErrTooLarge, ""},
		"a body longer than its length":     {strings.NewReader(`{"x":1,"model":"m"}`), 6, reqbody.ErrTooLarge, ""},
		"a body that exceeds the budget":    {strings.NewReader(`{"x":"` + strings.Repeat("y", 1<<19) + `","model":"m"}`), 1<<19 + 19, reqbody.ErrOverBudget, ""},
		"one of no known length, as well":   {strings.NewReader(`{"x":"` + strings.Repeat("y", 1<<19) + `","model":"m"}`), -1, reqbody.ErrOverBudget, ""},
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
				t.Errorf("got %v, want %v", err, tt.want)
			}
			rest, err := io.ReadAll(body.Reader())
			if tt.rest != "" && string(rest) != tt.rest {
				t.Errorf("the rest is %q, %v", rest, err)
			}
			if errors.Is(tt.want, cause) && !errors.Is(err, cause) {
				t.Errorf("reading again: %v", err)
			}
		})
	}
}

func TestBody_IsLimitedInWhatIsReadForTheModel(t *testing.T) {
	for _, length := range []int64{1<<20 + 15, -1} {
		text := `{"model":"m",` + strings.Repeat(" ", 1<<20) + "}}"
		body := reqbody.New(httptest.NewRecorder(), request(strings.NewReader(text), length), reqbody.Options{MaxBytes: 1 << 10, Budget: reqbody.NewBudget(1 << 22)})
		if model, err := body.Model(); err != nil || model != "m" {
			t.Error(model, err)
		}
		if rest, err := io.ReadAll(body.Reader()); string(rest) != text || err != nil {
			t.Errorf("%d bytes of %d, %v", len(rest), len(text), err)
		}
		body.Close()
	}
}

// A server closes a request's body once the answer has begun, and reading it then fails. A
// transport reads beyond the last byte, perhaps only then.
func TestReader_DoesNotReadBeyondTheAnnouncedLength(t *testing.T) {
	text := `{"model":"m","x":"` + strings.Repeat("y", 300<<10) + `"}`
	closed := io.MultiReader(strings.NewReader(text), iotest.ErrReader(http.ErrBodyReadAfterClose))
	body := reqbody.New(httptest.NewRecorder(), request(closed, int64(len(text))), reqbody.Options{MaxBytes: 1 << 20, Budget: reqbody.NewBudget(1 << 22)})
	defer body.Close()
	if model, err := body.Model(); err != nil || model != "m" {
		t.Fatal(model, err)
	}
	if got, err := io.ReadAll(body.Reader()); string(got) != text || err != nil {
		t.Errorf("%d bytes of %d, %v", len(got), len(text), err)
	}
}

func TestBody_RefusesAnAnnouncedLengthUnread(t *testing.T) {
	body := reqbody.New(httptest.NewRecorder(), request(iotest.ErrReader(errors.New("was read")), 2<<20), reqbody.Options{MaxBytes: 1 << 20, Budget: reqbody.NewBudget(1 << 22)})
	defer body.Close()
	if _, err := body.Bytes(); !errors.Is(err, reqbody.ErrTooLarge) {
		t.Error(err)
	}
}

func TestBody_TakesNoMemoryForWhatIsOnlyAnnounced(t *testing.T) {
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
		t.Errorf("%d bytes are taken for 60 KiB", used)
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
		t.Error(err, budget.Used())
	}
	r := request(nil, 0)
	r.Body = nil
	body = reqbody.New(httptest.NewRecorder(), r, reqbody.Options{MaxBytes: 1, Budget: budget})
	defer body.Close()
	if got, err := body.Bytes(); err != nil || len(got) != 0 {
		t.Error(got, err)
	}
}

// upload is a connection on which a client sends as slowly as a test wants.
type upload struct {
	*httptest.ResponseRecorder
	*io.PipeReader
}

func (u *upload) SetReadDeadline(time.Time) error {
	return u.CloseWithError(errors.New("a deadline has passed"))
}

func TestBody_CutsOffClientsThatSendSlowly(t *testing.T) {
	for name, tt := range map[string]struct {
		each time.Duration // between two pieces of 1 KiB
		want error
		took time.Duration
	}{
		"one that sends nothing":       {time.Hour, reqbody.ErrTooSlow, 10 * time.Second},
		"one that trickles":            {1100 * time.Millisecond, reqbody.ErrTooSlow, 10 * time.Second},
		"but not one that is slow yet": {900 * time.Millisecond, nil, 90 * time.Second},
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
				begun := time.Now()
				_, err := body.Bytes()
				if took := time.Since(begun); !errors.Is(err, tt.want) || took != tt.took {
					t.Errorf("%v after %v, want %v after %v", err, took, tt.want, tt.took)
				}
				body.Close()
				time.Sleep(time.Hour)
			})
		})
	}
	t.Run("but not while nobody reads", func(t *testing.T) {
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
			time.Sleep(time.Hour) // a session is opened
			if got, err := body.Bytes(); err != nil || string(got) != `{"model":"m","x":1}` {
				t.Errorf("%q, %v", got, err)
			}
		})
	})
}

// On a real connection, which the deadline of the connection itself ends.
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
		t.Fatal(err) // without LimitUnread there is no answer
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusUnauthorized || !response.Close {
		t.Errorf("%d, the connection is closed: %t", response.StatusCode, response.Close)
	}
}

// Waves of large bodies of different sizes must not make the heap grow beyond the
// budget and what Budget leaves to the collector.
func TestBudget_BoundsMemoryOverManyBodies(t *testing.T) {
	const budgetBytes = 64 << 20
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as a host may
	budget := reqbody.NewBudget(budgetBytes)
	base := heapInUse()
	var mu sync.Mutex
	var peak uint64
	refused := 0
	for wave := range 8 {
		held := make(chan struct{})
		var all, tried sync.WaitGroup
		for i := range 16 {
			tried.Add(1)
			all.Go(func() {
				size := int64(4+wave+i%3) << 20
				body := reqbody.New(httptest.NewRecorder(), request(io.LimitReader(zeros{}, size), size), reqbody.Options{MaxBytes: 32 << 20, Budget: budget})
				defer body.Close()
				_, err := body.Bytes()
				used := heapInUse()
				mu.Lock()
				peak = max(peak, used)
				if errors.Is(err, reqbody.ErrOverBudget) {
					refused++
				} else if err != nil {
					t.Error(err)
				}
				mu.Unlock()
				tried.Done()
				<-held
			})
		}
		tried.Wait()
		close(held)
		all.Wait()
	}
	t.Logf("peak %d MiB over a base of %d MiB, %d bodies of 128 refused", peak>>20, base>>20, refused)
	if refused == 0 || refused == 128 {
		t.Errorf("%d bodies were refused", refused)
	}
	if grown := peak - min(base, peak); grown > budgetBytes+64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if used := budget.Used(); used != 0 {
		t.Errorf("%d bytes are still taken", used)
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
						b.Fatal(model, err)
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

// BenchmarkThirtyBodiesOf30MB reports the heap while all of them are held at
// once, as a multiple of their bytes.
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

package proxyroutertest

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// Options configure a node. The zero value is a node that needs no credentials,
// answers at once, and has two providers for every well-formed model id.
type Options struct {
	// Username and Password are required on every route but the health check,
	// unless both are empty.
	Username, Password string

	// Wallet is the consumer's address; empty means a fixed one.
	Wallet string

	// Models are the registry. Empty means that every well-formed id is a model
	// with two providers.
	Models []Model

	// An open takes a random time from OpenLatency to OpenLatencyMax, or exactly
	// OpenLatency if that is longer. Then the session is on the chain, even if the
	// caller has left.
	OpenLatency, OpenLatencyMax time.Duration

	// CloseLatency is how long a close takes.
	CloseLatency time.Duration

	// CollisionWindow is the part of an open or close, from its start, in which
	// its transaction is submitted. A transaction that starts in the window of
	// another fails with a nonce conflict. Zero means that none ever does.
	CollisionWindow time.Duration

	// ChunkDelay is the pause between two chunks of a stream, and before a
	// response that is not streamed.
	ChunkDelay time.Duration

	// MaxDuration is the longest session. A longer one is shortened without an
	// error. Zero means 24 h.
	MaxDuration time.Duration

	// SelfClose lets the node close sessions past their end, at each full minute.
	SelfClose bool

	// Control serves /_sim/stats, /_sim/faults and /_sim/expire without
	// credentials, for tests with several processes.
	Control bool

	// OnChat is called with each request that reached a provider, and its body
	// as the provider receives it.
	OnChat func(r *http.Request, body []byte)

	// Now is the chain's clock; nil means time.Now. Latencies use real timers.
	Now func() time.Time

	// Seed determines ids, random latencies and faults with a probability.
	Seed uint64
}

// Node is a simulated node. It is safe for concurrent use.
type Node struct {
	opts    Options
	mux     *http.ServeMux
	stopped chan struct{} // closed by Server.Close

	mu          sync.Mutex
	rand        *rand.Rand
	sessions    map[string]*session
	order       []*session            // in the order of their opens
	submitting  int                   // transactions being submitted
	forgotten   map[string]string     // by provider: the error of chats after a loss of storage
	transcripts map[string][]exchange // by chat id
	faults      []*Fault
	counts      Stats
}

// New returns a node with an empty chain.
func New(opts Options) *Node {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Wallet == "" {
		opts.Wallet = address("wallet")
	}
	if opts.MaxDuration == 0 {
		opts.MaxDuration = 24 * time.Hour
	}
	n := &Node{
		opts:        opts,
		mux:         http.NewServeMux(),
		stopped:     make(chan struct{}),
		rand:        rand.New(rand.NewPCG(opts.Seed, 0x6d6f7270)),
		sessions:    make(map[string]*session),
		forgotten:   make(map[string]string),
		transcripts: make(map[string][]exchange),
		counts:      Stats{OpensByModel: make(map[string]int)},
	}
	n.routes()
	return n
}

func (n *Node) routes() {
	handle := func(pattern string, op Op, h http.HandlerFunc) {
		n.mux.Handle(pattern, n.authenticated(n.withFaults(op, h)))
	}
	handle("POST /blockchain/models/{id}/session", OpOpen, n.serveOpen)
	handle("POST /blockchain/sessions/{id}/close", OpClose, n.serveClose)
	handle("GET /blockchain/sessions/user", OpSessions, n.serveSessions)
	handle("GET /blockchain/sessions/{id}", OpGet, n.serveSession)
	handle("GET /blockchain/models/{id}/bids/rated", OpBids, n.serveBids)
	handle("GET /blockchain/models", OpModels, n.serveModels)
	handle("GET /blockchain/providers", OpProviders, n.serveProviders)
	handle("GET /blockchain/stakes/onhold", OpStakes, n.serveStakes)
	handle("POST /blockchain/stakes/withdraw", OpStakes, n.serveWithdraw)
	handle("POST /proxy/sessions/initiate", OpInitiate, n.serveInitiate)
	handle("GET /wallet", OpWallet, n.serveWallet)
	n.mux.Handle("GET /healthcheck", n.withFaults(OpHealth, n.serveHealth))
	// A fault of a chat may apply to one provider only, so n.chat applies faults,
	// after it has found the session.
	for path, answer := range map[string]answerFunc{
		"/v1/chat/completions":     answerChat,
		"/v1/embeddings":           answerEmbeddings,
		"/v1/audio/transcriptions": answerTranscription,
		"/v1/audio/speech":         answerSpeech,
	} {
		n.mux.Handle("POST "+path, n.authenticated(n.chat(answer)))
	}
	n.mux.Handle("GET /v1/chats/{id}", n.authenticated(http.HandlerFunc(n.serveTranscript)))
	if n.opts.Control {
		n.controlRoutes()
	}
}

// ServeHTTP answers like a node.
func (n *Node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mux.ServeHTTP(w, r)
}

// authenticated requires the credentials of the Options, if they have any.
func (n *Node) authenticated(next http.Handler) http.Handler {
	if n.opts.Username == "" && n.opts.Password == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		username, password, ok := r.BasicAuth()
		switch {
		case r.Header.Get("Authorization") == "":
			writeError(w, http.StatusUnauthorized, "no basic auth provided")
		case !ok:
			writeError(w, http.StatusUnauthorized, "invalid basic auth provided")
		case username != n.opts.Username || password != n.opts.Password:
			writeError(w, http.StatusUnauthorized, "invalid username or password")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (n *Node) serveWallet(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"address": n.opts.Wallet})
}

func (n *Node) serveHealth(w http.ResponseWriter, _ *http.Request) {
	version := "v7.12.0-simulated"
	if n.isOld() {
		version = "v7.5.0-simulated"
	}
	writeJSON(w, http.StatusOK, map[string]any{"status": "healthy", "version": version, "uptime": "1h0m0s"})
}

// isOld reports whether the node behaves like one older than v7.6.
func (n *Node) isOld() bool { return n.inState(ModeOldNode) }

func writeJSON(w http.ResponseWriter, status int, body any) {
	raw := mustJSON(body)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	w.Write(raw) //nolint:errcheck // the client may have left
}

func writeError(w http.ResponseWriter, status int, text string) {
	writeJSON(w, status, map[string]any{"error": text})
}

func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // this package makes the value, so it marshals
	}
	return raw
}

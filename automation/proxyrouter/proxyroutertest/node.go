package proxyroutertest

import (
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Options shape a node. The zero value is a node without credentials that
// answers at once and offers every well-formed model id by two providers.
type Options struct {
	// Username and Password are asked for on every route but the health check,
	// unless both are empty.
	Username, Password string

	// Wallet is the consumer's address; empty means a fixed one.
	Wallet string

	// Models are the registry. Empty means that every well-formed id is a model
	// with two providers.
	Models []Model

	// OpenLatency is how long an open takes, at random between the two; zero is at
	// once. It ends with the session on the chain, also when the caller has left.
	OpenLatency, OpenLatencyMax time.Duration
	CloseLatency                time.Duration

	// CollisionWindow is the part of an open or close, from its start, in which
	// its transaction is submitted. One that starts within another's window fails
	// with a nonce conflict. Zero means that none ever does.
	CollisionWindow time.Duration

	// ChunkDelay is the pause between two chunks of a stream, and before an
	// answer that is not streamed.
	ChunkDelay time.Duration

	// MaxDuration caps sessions, and nobody is told; zero means 24 h.
	MaxDuration time.Duration

	// SelfClose lets the node close sessions past their end, at each full minute.
	SelfClose bool

	// Control serves GET /_sim/stats, POST and DELETE /_sim/faults and
	// POST /_sim/expire?id=… without auth, for tests with several processes.
	Control bool

	// OnChat is called with each forwarded request that reached its provider, and its body.
	OnChat func(r *http.Request, body []byte)

	// Now is the chain's clock; nil means time.Now. Latencies run on real timers.
	Now func() time.Time

	// Seed makes ids, latencies and faults by probability repeat.
	Seed uint64
}

// Model is a model of the registry.
type Model struct {
	ID        string // 0x and 64 hex digits
	Name      string
	Type      string // LLM, EMBEDDING, TTS, STT, UNKNOWN; empty means LLM
	Providers []Provider
}

// Provider is a provider's bid for a model. The first is rated best.
type Provider struct {
	Address string
	Refuses bool // accepts no session
}

// Node is a simulated node. It is safe for concurrent use.
type Node struct {
	opts Options
	mux  *http.ServeMux

	mu       sync.Mutex
	rand     *rand.Rand
	sessions map[string]*paid
	order    []*paid // as they were opened
	inWindow int     // transactions being submitted
	faults   []*Fault
	counts   Stats
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
		opts:     opts,
		mux:      http.NewServeMux(),
		rand:     rand.New(rand.NewPCG(opts.Seed, 0x6d6f7270)),
		sessions: make(map[string]*paid),
		counts:   Stats{OpensByModel: make(map[string]int)},
	}
	n.routes()
	return n
}

func (n *Node) routes() {
	handle := func(pattern string, op Op, h http.HandlerFunc) {
		n.mux.Handle(pattern, n.authenticated(n.faulty(op, h)))
	}
	handle("POST /blockchain/models/{id}/session", OpOpen, n.serveOpen)
	handle("POST /blockchain/sessions/{id}/close", OpClose, n.serveClose)
	handle("GET /blockchain/sessions/user", OpSessions, n.serveSessions)
	handle("GET /blockchain/sessions/{id}", OpGet, n.serveSession)
	handle("GET /blockchain/models/{id}/bids/rated", OpBids, n.serveBids)
	handle("GET /blockchain/models", OpModels, n.serveModels)
	handle("GET /wallet", OpWallet, n.serveWallet)
	// Faults of these belong to a provider, so they wait until the session is known.
	n.mux.Handle("POST /v1/chat/completions", n.authenticated(n.chat(answerChat)))
	n.mux.Handle("POST /v1/embeddings", n.authenticated(n.chat(answerEmbeddings)))
	n.mux.Handle("POST /v1/audio/transcriptions", n.authenticated(n.chat(answerTranscription)))
	n.mux.Handle("POST /v1/audio/speech", n.authenticated(n.chat(answerSpeech)))
	n.mux.Handle("GET /healthcheck", n.faulty(OpHealth, n.serveHealth))
	if n.opts.Control {
		n.controlRoutes()
	}
}

// ServeHTTP answers as the node does.
func (n *Node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mux.ServeHTTP(w, r)
}

func (n *Node) authenticated(next http.Handler) http.Handler {
	if n.opts.Username == "" && n.opts.Password == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		username, password, ok := r.BasicAuth()
		switch {
		case r.Header.Get("Authorization") == "":
			fail(w, http.StatusUnauthorized, "no basic auth provided")
		case !ok:
			fail(w, http.StatusUnauthorized, "invalid basic auth provided")
		case username != n.opts.Username || password != n.opts.Password:
			fail(w, http.StatusUnauthorized, "invalid username or password")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (n *Node) serveWallet(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"address": n.opts.Wallet})
}

func (n *Node) serveHealth(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"status": "healthy", "version": "simulated", "uptime": "1h0m0s"})
}

// providers returns a model's bids; false is an unknown model.
func (n *Node) providers(model string) ([]Provider, bool) {
	if len(n.opts.Models) == 0 {
		return []Provider{{Address: ProviderAddress(0)}, {Address: ProviderAddress(1)}}, true
	}
	for _, m := range n.opts.Models {
		if strings.EqualFold(m.ID, model) {
			return m.Providers, true
		}
	}
	return nil, false
}

var hash32 = regexp.MustCompile(`^0x[0-9a-fA-F]{64}$`)

func reply(w http.ResponseWriter, status int, body any) {
	raw := mustJSON(body)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	w.Write(raw) //nolint:errcheck // the client may have left
}

func fail(w http.ResponseWriter, status int, text string) {
	reply(w, status, map[string]any{"error": text})
}

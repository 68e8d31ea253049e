package clients_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

func hello(model string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:    model,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello")},
	}
}

func TestGoSDK_ChatsStreamsAndEmbedsWithoutASession(t *testing.T) {
	s := start(t, t.TempDir())
	alice := s.client("sk-alice")

	var first, second *http.Response
	completion, err := alice.Chat.Completions.New(t.Context(), hello("llama-3.3-70b"), option.WithResponseInto(&first))
	if err != nil {
		t.Fatal(err)
	}
	if len(completion.Choices) != 1 || completion.Choices[0].Message.Content == "" {
		t.Errorf("the first chat answered %s", completion.RawJSON())
	}
	session := first.Header.Get("X-Automation-Session")
	if session == "" {
		t.Error("the first answer has no header X-Automation-Session")
	}

	stream := alice.Chat.Completions.NewStreaming(t.Context(), hello("Llama 3.3 70B"), option.WithResponseInto(&second))
	var whole openai.ChatCompletionAccumulator
	for stream.Next() {
		whole.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if len(whole.Choices) != 1 || whole.Choices[0].Message.Content == "" {
		t.Errorf("the stream answered %+v", whole.ChatCompletion)
	}
	if again := second.Header.Get("X-Automation-Session"); again != session {
		t.Errorf("the second chat was on session %s, want the first one's %s, which was idle", again, session)
	}

	vector, err := alice.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
		Model: "text-embedding-bge-m3",
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"one", "two"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(vector.Data) != 2 || len(vector.Data[0].Embedding) == 0 {
		t.Errorf("%d embeddings for two texts, want 2 that are not empty", len(vector.Data))
	}
	s.Terminate(t)
}

func TestGoSDK_ReturnsClientErrorsWithDetails(t *testing.T) {
	s := start(t, t.TempDir(), "AUTOMATION_MAX_OPENS_PER_HOUR=1")
	alice := s.client("sk-alice")

	t.Run("an unknown model, with suggestions", func(t *testing.T) {
		_, err := alice.Chat.Completions.New(t.Context(), hello("llama-3.3-70c"))
		e, ok := errors.AsType[*openai.Error](err)
		if !ok || e.StatusCode != http.StatusBadRequest || e.Code != "model_not_found" || e.Param != "model" {
			t.Fatalf("the error is %v, want 400 model_not_found for the parameter model", err)
		}
		if !strings.Contains(e.Message, "llama-3.3-70b") || !strings.Contains(e.RawJSON(), `"suggestions":[`) {
			t.Errorf("no suggestion in %s", e.RawJSON())
		}
	})
	t.Run("an exhausted budget, with Retry-After", func(t *testing.T) {
		if _, err := alice.Chat.Completions.New(t.Context(), hello("llama-3.3-70b")); err != nil {
			t.Fatal(err)
		}
		_, err := alice.Chat.Completions.New(t.Context(), hello("gpt-oss-120b"))
		e, ok := errors.AsType[*openai.Error](err)
		if !ok || e.StatusCode != http.StatusTooManyRequests || e.Code != "session_budget_exceeded" {
			t.Fatalf("the error is %v, want 429 session_budget_exceeded", err)
		}
		if e.Response.Header.Get("Retry-After") == "" {
			t.Error("the answer has no Retry-After")
		}
	})
	s.Terminate(t)
}

// The simulated node runs in the test's process, so that it survives the gateway, as
// the chain does.
func TestGateway_LosesNoPaidSessionWhenKilled(t *testing.T) {
	restart := func(t *testing.T, dir string, node *proxyroutertest.Server) *server {
		return start(t, dir, "PROXY_ROUTER_URL="+node.URL,
			"AUTOMATION_SESSION_LEASE=3s", "AUTOMATION_SESSION_COOLDOWN=1s", "AUTOMATION_MAX_SESSIONS_PER_USER=1",
			"AUTOMATION_SWEEP_INTERVAL=100ms", "AUTOMATION_OPEN_TIMEOUT=5s")
	}
	t.Run("in the middle of a stream", func(t *testing.T) {
		dir, node := t.TempDir(), proxyroutertest.NewServer(t, proxyroutertest.Options{ChunkDelay: 50 * time.Millisecond})
		first := restart(t, dir, node)
		alice := first.client("sk-alice")
		stream := alice.Chat.Completions.NewStreaming(t.Context(), hello("llama-3.3-70b"))
		if !stream.Next() {
			t.Fatal(stream.Err())
		}
		first.Kill()
		for stream.Next() {
		}
		if stream.Err() == nil {
			t.Fatal("the stream ended without an error: the server was killed too late")
		}
		second := restart(t, dir, node)
		waitAllIdle(t, second, node)
		second.Terminate(t)
	})
	t.Run("in the middle of an open", func(t *testing.T) {
		dir, node := t.TempDir(), proxyroutertest.NewServer(t, proxyroutertest.Options{OpenLatency: time.Second})
		first := restart(t, dir, node)
		failed := make(chan error, 1)
		go func() {
			alice := first.client("sk-alice")
			_, err := alice.Chat.Completions.New(t.Context(), hello("llama-3.3-70b"))
			failed <- err
		}()
		eventually(t, "the open has reached the node", func() bool { return node.Stats().OpenRequests == 1 })
		first.Kill()
		if err := <-failed; err == nil {
			t.Fatal("the chat succeeded: the server was killed too late")
		}
		eventually(t, "the session is on the chain", func() bool { return node.Stats().Opens == 1 })
		second := restart(t, dir, node)
		waitAllIdle(t, second, node)
		if opens := node.Stats().Opens; opens != 1 {
			t.Errorf("the session was paid %d times", opens)
		}
		second.Terminate(t)
	})
}

// waitAllIdle waits until the server lists all paid sessions as Alice's and idle. Then
// it checks that another chat uses one of them.
func waitAllIdle(t *testing.T, s *server, node *proxyroutertest.Server) {
	t.Helper()
	var list string
	defer func() { t.Logf("the server lists %s", list) }()
	eventually(t, "every paid session is listed and idle", func() bool {
		var idle []string
		idle, list = idleSessions(t, s)
		paid := node.Stats().Sessions
		return len(paid) > 0 && len(idle) == len(paid) && !slices.ContainsFunc(paid, func(p proxyroutertest.Session) bool {
			return !slices.Contains(idle, p.ID)
		})
	})
	opens := node.Stats().Opens
	alice := s.client("sk-alice")
	if _, err := alice.Chat.Completions.New(t.Context(), hello("llama-3.3-70b")); err != nil {
		t.Error(err)
	}
	if after := node.Stats(); after.Opens != opens || after.Overlaps != 0 || after.Unknown != 0 || after.EarlyCloses != 0 {
		t.Errorf("after another chat the node has counted %+v; want still %d opens, and no overlap, unknown session or early close", after, opens)
	}
}

// idleSessions returns the ids of Alice's idle sessions, and a text with all of them.
func idleSessions(t *testing.T, s *server) (idle []string, list string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/api/v1/automation/sessions", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer sk-alice")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Sessions []struct{ ID, State string }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	for _, session := range answer.Sessions {
		list += session.ID + " " + session.State + "; "
		if session.State == "idle" {
			idle = append(idle, session.ID)
		}
	}
	return idle, list
}

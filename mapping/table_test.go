package mapping_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// mergedTable returns the table of the file and the feed in testdata.
func mergedTable(t testing.TB) *mapping.Table {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, "testdata/feed.json")
	}))
	defer srv.Close()
	c, err := mapping.New(mapping.Options{File: "testdata/mapping.json", FeedURL: srv.URL, HTTPClient: srv.Client()})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Load(context.Background()), c.LoadFeed(context.Background())); err != nil {
		t.Fatal(err)
	}
	return c.Table()
}

func TestTable_ResolveFindsByIDThenNameThenAliasThenSlug(t *testing.T) {
	table := mergedTable(t)
	m := func(name, digit string, typ mapping.Type, match string) mapping.Model {
		return mapping.Model{Name: name, ID: id(digit), Type: typ, Match: match}
	}
	llama := func(match string) mapping.Model { return m("llama-3.3-70b", "a", mapping.LLM, match) }
	for _, tt := range []struct {
		name  string
		asked string
		want  mapping.Model
	}{
		{"an id has the first of its names", id("a"), llama(mapping.MatchID)},
		{"an id in capitals", strings.ToUpper(id("a")), llama(mapping.MatchID)},
		{"an id that only the feed has", id("b"), m("Kokoro Voice", "b", mapping.TTS, mapping.MatchID)},
		{"a name", "glm-5.1", m("glm-5.1", "5", "", mapping.MatchName)},
		{"a name in another letter case", "GLM-5.1", m("glm-5.1", "5", "", mapping.MatchName)},
		{"a name with a suffix is a model of its own", "glm-5.1:WEB", m("glm-5.1:web", "6", "", mapping.MatchName)},
		{"a name with spaces around", " glm-5.1\n", m("glm-5.1", "5", "", mapping.MatchName)},
		{"another name gives the canonical one", "LLAMA 3.3 70B", m("llama-3.3-70b", "a", mapping.LLM, mapping.MatchName)},
		{"a name beyond ASCII", "sTRAẞEN KERNEL", m("Straßen Kernel", "3", "", mapping.MatchName)},
		{"a letter that folds into ASCII", "\u212Aokoro Voice", m("Kokoro Voice", "b", mapping.TTS, mapping.MatchName)},
		{"a name of the feed", "kokoro voice", m("Kokoro Voice", "b", mapping.TTS, mapping.MatchName)},
		{"a feed's name for a model of the file", "bge m3", m("text-embedding-bge-m3", "e", mapping.Embedding, mapping.MatchName)},
		{"the slug of a name", "claude-opus-4.5", m("Claude Opus 4.5", "c", mapping.Unknown, mapping.MatchAlias)},
		{"the slug of a feed's name", "kokoro-voice", m("Kokoro Voice", "b", mapping.TTS, mapping.MatchAlias)},
		{"the slug of two names of one id", "Same-A-B-C", m("odd a-b c", "1", "", mapping.MatchAlias)},
		{"a Venice id", "bge-M3", m("text-embedding-bge-m3", "e", mapping.Embedding, mapping.MatchAlias)},
		{"a Venice id of a model whose name is taken", "glm-mine", m(id("4"), "4", mapping.LLM, mapping.MatchAlias)},
		{"a name whose slug is an alias", "Claude-Opus 4.5", m("Claude Opus 4.5", "c", mapping.Unknown, mapping.MatchSlug)},
		{"an empty name", "", llama(mapping.MatchDefault)},
		{"a name of spaces", "  ", llama(mapping.MatchDefault)},
		{"the reserved name", "Default", llama(mapping.MatchDefault)},
		{"a name that the file maps to the default", "RETIRED", llama(mapping.MatchDefault)},
		{"the id of a model whose name two models have", id("9"), m(id("9"), "9", mapping.LLM, mapping.MatchID)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := table.Resolve(tt.asked, "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Resolve(%q) (-want +got):\n%s", tt.asked, diff)
			}
		})
	}
}

func TestTable_ResolveSuggestsTheNearestNames(t *testing.T) {
	table := mergedTable(t)
	for _, tt := range []struct {
		name, asked string
		want        mapping.Type
		suggestions []string
	}{
		{"a typing error", "claude opus 4.6", mapping.LLM, []string{"Claude Opus 4.5"}},
		{"a turbo that does not exist", "llama-3.3-70b-turbo", mapping.LLM, []string{"Llama 3.3 70B"}},
		{"an instruct-turbo that does not exist", "GLM-5.1-Instruct-Turbo", mapping.LLM, []string{"glm-5.1", "glm-5.1:web"}},
		{"an alias that two names claim", "odd-a-b-c", "", []string{"odd a b-c", "odd a-b c"}},
		{"a name that two models have", "Llama 7.1-dev", "", []string{id("8"), id("9")}},
		{"the wanted type comes first: embedding", "text-embeding-bge-m3", mapping.Embedding, []string{"text-embedding-bge-m3", "text-chatting-bge-m3"}},
		{"the wanted type comes first: chat", "text-embeding-bge-m3", mapping.LLM, []string{"text-chatting-bge-m3", "text-embedding-bge-m3"}},
		{"a web variant that does not exist", "kokoro-voice:web", "", []string{"Kokoro Voice"}},
		{"a deleted model", "gone", "", nil},
		{"an id that no model has", id("0"), "", nil},
		{"a name that resembles no other", "zzz", "", nil},
		{"invalid UTF-8", "glm-5.1\xff", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := table.Resolve(tt.asked, tt.want)
			var notFound *mapping.NotFoundError
			if !errors.As(err, &notFound) || isTypeMismatch(err) {
				t.Fatalf("Resolve = %+v, %v; want a NotFoundError", m, err)
			}
			if diff := cmp.Diff(tt.suggestions, notFound.Suggestions); diff != "" {
				t.Errorf("suggestions (-want +got):\n%s", diff)
			}
			for _, s := range notFound.Suggestions {
				if _, err := table.Resolve(s, ""); err != nil {
					t.Errorf("the suggestion %q does not resolve: %v", s, err)
				}
				if !strings.Contains(notFound.Error(), s) {
					t.Errorf("the error %q does not name the suggestion %q", notFound, s)
				}
			}
		})
	}
}

func TestTable_SuggestsAtMostFiveModels(t *testing.T) {
	text := `{"default":"` + id("a") + `"`
	for _, digit := range strings.Split("0123456789", "") {
		text += `,"some-model-` + digit + `":"` + id(digit) + `","some model ` + digit + `":"` + id(digit) + `"`
	}
	table, err := mapping.Parse([]byte(text + "}"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = table.Resolve("some-model", mapping.LLM)
	var notFound *mapping.NotFoundError
	if !errors.As(err, &notFound) {
		t.Fatalf("error %v, want a NotFoundError", err)
	}
	want := []string{"some model 0", "some model 1", "some model 2", "some model 3", "some model 4"}
	if diff := cmp.Diff(want, notFound.Suggestions); diff != "" {
		t.Errorf("suggestions (-want +got):\n%s", diff)
	}
}

func TestTable_ResolveChecksTypes(t *testing.T) {
	table := mergedTable(t)
	for _, tt := range []struct {
		name, asked string
		want        mapping.Type
		mismatch    *mapping.TypeMismatchError
	}{
		{"an LLM for a chat", "llama-3.3-70b", mapping.LLM, nil},
		{"an embedding model for embeddings", "bge-m3", mapping.Embedding, nil},
		{"a model whose type is not stated for a chat", "glm-5.1", mapping.LLM, nil},
		{"a model of an unknown type for any type", "Claude Opus 4.5", "", nil},
		{"an embedding model for a chat", "bge-m3", mapping.LLM,
			&mapping.TypeMismatchError{ResolvedModel: "text-embedding-bge-m3", ResolvedID: id("e"), RequestedType: mapping.LLM, ModelType: mapping.Embedding}},
		{"a model whose type is stated as UNKNOWN for a chat", "Claude Opus 4.5", mapping.LLM,
			&mapping.TypeMismatchError{ResolvedModel: "Claude Opus 4.5", ResolvedID: id("c"), RequestedType: mapping.LLM, ModelType: mapping.Unknown}},
		{"a model of another type than the known ones for a chat", id("d")[:64] + "00", mapping.LLM,
			&mapping.TypeMismatchError{ResolvedModel: id("d")[:64] + "00", ResolvedID: id("d")[:64] + "00", RequestedType: mapping.LLM, ModelType: mapping.Unknown}},
		{"the default for embeddings", "", mapping.Embedding,
			&mapping.TypeMismatchError{ResolvedModel: "llama-3.3-70b", ResolvedID: id("a"), RequestedType: mapping.Embedding, ModelType: mapping.LLM}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := table.Resolve(tt.asked, tt.want)
			var got *mapping.TypeMismatchError
			if err != nil && !errors.As(err, &got) {
				t.Fatalf("error %v, want none or a TypeMismatchError", err)
			}
			if diff := cmp.Diff(tt.mismatch, got); diff != "" {
				t.Fatalf("TypeMismatchError (-want +got):\n%s", diff)
			}
			if err != nil && !strings.Contains(err.Error(), string(tt.mismatch.ModelType)) {
				t.Errorf("the error %q does not name the model's type %s", err, tt.mismatch.ModelType)
			}
		})
	}
}

func TestTable_ModelsListsEveryModelOnceSorted(t *testing.T) {
	table := mergedTable(t)
	var got []string
	for _, m := range table.Models() {
		got = append(got, m.Name+" "+m.ID[2:4]+" "+string(m.Type)+" "+m.Match)
	}
	want := []string{
		id("4") + " 44 LLM id", id("8") + " 88 LLM id", id("9") + " 99 LLM id", id("d")[:64] + "00 dd UNKNOWN id",
		"Claude Opus 4.5 cc UNKNOWN name", "glm-5.1 55  name", "glm-5.1:web 66  name",
		"Kokoro Voice bb TTS name", "llama-3.3-70b aa LLM name", "odd a b-c 22  name", "odd a-b c 11  name",
		"Straßen Kernel 33  name",
		"text-chatting-bge-m3 77  name", "text-embedding-bge-m3 ee EMBEDDING name",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Models (-want +got):\n%s", diff)
	}
	table.Models()[0].Name = "mine"
	if table.Models()[0].Name == "mine" {
		t.Error("a change of the returned slice changes the table")
	}
}

func TestTable_LongNamesAreCheapAndCutInTheError(t *testing.T) {
	table := mergedTable(t)
	for _, name := range []string{strings.Repeat("llama ", 1<<20), strings.Repeat(" ", 10<<20), strings.Repeat("\xff", 5<<20), strings.Repeat("é", 200)} {
		allocs := testing.AllocsPerRun(1, func() {
			_, err := table.Resolve(name, mapping.LLM)
			var notFound *mapping.NotFoundError
			if !errors.As(err, &notFound) || len(notFound.Name) > mapping.MaxName || len(err.Error()) > 2000 {
				t.Errorf("Resolve of %d bytes %.10q…: error %.100v; want a NotFoundError of at most 2,000 bytes", len(name), name, err)
			}
		})
		if allocs > 20 {
			t.Errorf("Resolve of %d bytes %.10q… allocates %v times, want at most 20", len(name), name, allocs)
		}
	}
}

func TestTable_DefaultWithoutATypeServesOnlyChats(t *testing.T) {
	table, err := mapping.Parse([]byte(`{"default":"` + id("a") + `","a":"` + id("a") + `","old":"default"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		asked string
		want  mapping.Type
		isHit bool
	}{
		{"", mapping.LLM, true}, {"", "", true}, {"old", mapping.LLM, true},
		{"", mapping.Embedding, false}, {"", mapping.STT, false}, {"old", mapping.TTS, false},
		{"a", mapping.Embedding, true}, // the request names the model
	} {
		m, err := table.Resolve(c.asked, c.want)
		if c.isHit && err != nil {
			t.Errorf("Resolve(%q, %q): %v", c.asked, c.want, err)
		}
		if !c.isHit && (!isTypeMismatch(err) || !strings.Contains(err.Error(), "not stated")) {
			t.Errorf("Resolve(%q, %q) = %+v, %v; want a TypeMismatchError that the type is not stated", c.asked, c.want, m, err)
		}
	}
}

func isNotFound(err error) bool     { return hasType[*mapping.NotFoundError](err) }
func isTypeMismatch(err error) bool { return hasType[*mapping.TypeMismatchError](err) }
func isNil(err error) bool          { return err == nil }

func hasType[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

package mapping_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/MorpheusAIs/gateway-automation/mapping"
)

func Example() {
	catalog, err := mapping.New(mapping.Options{File: "../model_mappings.json"})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if err := catalog.Load(ctx); err != nil {
		fmt.Println(err) // missing or invalid: do not start
		return
	}
	// go catalog.Run(ctx)

	model, err := catalog.Resolve("claude-opus-4.5", mapping.LLM)
	fmt.Println(model.Name, model.Match, err)

	_, err = catalog.Resolve("hermes-4-14b-turbo", mapping.LLM)
	if notFound, ok := errors.AsType[*mapping.NotFoundError](err); ok {
		fmt.Println("did you mean", notFound.Suggestions[0])
	}
	// Output:
	// Claude Opus 4.5 alias <nil>
	// did you mean hermes-4-14b
}

// writeTemp writes a temporary file. The example must call remove.
func writeTemp(text string) (path string, remove func()) {
	f, err := os.CreateTemp("", "model_mappings.*.json")
	if err != nil {
		panic(err)
	}
	if _, err := f.WriteString(text); err != nil {
		panic(err)
	}
	_ = f.Close()
	return f.Name(), func() { _ = os.Remove(f.Name()) }
}

func ExampleLoad() {
	path, remove := writeTemp(`{
	"default": "default",
	"qwen:4b": "0x12",
	"Qwen:4B": "0x1111111111111111111111111111111111111111111111111111111111111111"
}`)
	defer remove()
	_, err := mapping.Load(path)
	if parseErr, ok := errors.AsType[*mapping.ParseError](err); ok {
		for _, p := range parseErr.Problems {
			fmt.Println(p)
		}
	}
	// Output:
	// line 2: "default": the default maps to itself; give it a model id
	// line 3: "qwen:4b": the value "0x12" is neither a model id (0x and 64 hex digits) nor "default"
	// line 4: "Qwen:4B": the name differs only in letter case from "qwen:4b" on line 3
}

func ExampleTable_Resolve() {
	path, remove := writeTemp(`{
	"default": "0x1111111111111111111111111111111111111111111111111111111111111111",
	"GLM 5.1": "0x1111111111111111111111111111111111111111111111111111111111111111",
	"GLM 5.1:web": "0x2222222222222222222222222222222222222222222222222222222222222222"
}`)
	defer remove()
	table, err := mapping.Load(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, asked := range []string{"glm 5.1", "GLM-5.1:WEB", "", "glm 5.2"} {
		m, err := table.Resolve(asked, mapping.LLM)
		fmt.Printf("%q: %s %s %v\n", asked, m.Name, m.Match, err)
	}
	// Output:
	// "glm 5.1": GLM 5.1 name <nil>
	// "GLM-5.1:WEB": GLM 5.1:web alias <nil>
	// "": GLM 5.1 default <nil>
	// "glm 5.2":   mapping: resolve("glm 5.2"): model not found; did you mean GLM 5.1?
}

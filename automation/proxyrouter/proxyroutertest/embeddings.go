package proxyroutertest

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
)

const defaultDimensions = 16

// answerEmbeddings derives vectors from the input. Equal inputs have equal vectors.
func answerEmbeddings(x *chat) {
	var req struct {
		Model      string          `json:"model"`
		Input      json.RawMessage `json:"input"`
		Format     string          `json:"encoding_format"`
		Dimensions int             `json:"dimensions"`
	}
	if json.Unmarshal(x.body, &req) != nil || len(req.Input) == 0 || req.Dimensions < 0 || req.Dimensions > 4096 {
		x.reject("input is missing or malformed")
		return
	}
	if req.Dimensions == 0 {
		req.Dimensions = defaultDimensions
	}
	var inputs []json.RawMessage
	if json.Unmarshal(req.Input, &inputs) != nil || (len(inputs) > 0 && json.Unmarshal(inputs[0], new(int)) == nil) {
		inputs = []json.RawMessage{req.Input} // one text, or one list of tokens
	}
	data := make([]any, 0, len(inputs))
	for i, input := range inputs {
		vector := embed(input, req.Dimensions)
		var value any = vector
		if req.Format == "base64" {
			raw, _ := binary.Append(nil, binary.LittleEndian, vector) // fails only for types without a fixed size
			value = base64.StdEncoding.EncodeToString(raw)
		}
		data = append(data, map[string]any{"object": "embedding", "index": i, "embedding": value})
	}
	x.n.pause(x.n.opts.ChunkDelay)
	x.respond("application/json; charset=utf-8", mustJSON(map[string]any{
		"object": "list", "model": req.Model, "data": data,
		"usage": map[string]any{"prompt_tokens": len(req.Input), "total_tokens": len(req.Input)},
	}))
}

// embed returns a vector with size components and a norm of at most 1.
func embed(input []byte, size int) []float32 {
	vector := make([]float32, size)
	for i := range vector {
		h := fnv.New32a()
		h.Write(fmt.Appendf(nil, "%d:%s", i, input))
		vector[i] = (float32(h.Sum32()>>8)/(1<<23) - 1) / float32(math.Sqrt(float64(size)))
	}
	return vector
}

package proxyroutertest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// answerTranscription answers with the name and the size of the uploaded file.
func answerTranscription(x *chat) {
	r := x.r.Clone(x.r.Context())
	r.Body = io.NopCloser(bytes.NewReader(x.body))
	if err := r.ParseMultipartForm(32 << 20); err != nil {
		x.reject("multipart form expected")
		return
	}
	defer r.MultipartForm.RemoveAll() //nolint:errcheck // temporary files only
	files := r.MultipartForm.File["file"]
	if len(files) == 0 {
		x.reject("file is missing")
		return
	}
	x.n.pause(x.n.opts.ChunkDelay)
	x.respond("application/json; charset=utf-8", mustJSON(map[string]any{
		"text": fmt.Sprintf("Transcript of %s, %d bytes.", files[0].Filename, files[0].Size),
	}))
}

// answerSpeech sends 10 ms of silence for each byte of the input, as WAV with 8 kHz
// and 8 bits.
func answerSpeech(x *chat) {
	var req struct {
		Input string `json:"input"`
	}
	if json.Unmarshal(x.body, &req) != nil || req.Input == "" {
		x.reject("input is missing or malformed")
		return
	}
	silence := bytes.Repeat([]byte{0x80}, 80*len(req.Input))
	le := binary.LittleEndian
	wav := le.AppendUint32([]byte("RIFF"), uint32(36+len(silence)))
	wav = le.AppendUint32(append(wav, "WAVEfmt "...), 16)
	wav = le.AppendUint16(le.AppendUint16(wav, 1), 1) // PCM, mono
	wav = le.AppendUint32(le.AppendUint32(wav, 8000), 8000)
	wav = le.AppendUint16(le.AppendUint16(wav, 1), 8)
	wav = le.AppendUint32(append(wav, "data"...), uint32(len(silence)))
	x.n.pause(x.n.opts.ChunkDelay)
	x.respond("audio/wav", append(wav, silence...))
}

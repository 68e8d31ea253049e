package proxyrouter

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"
)

// scopedChatID returns the chat id to send to the node, or "" without a chatID.
// The node shows a transcript to everyone who sends its id, and accepts only ids of
// 32 bytes. So the id is a hash of the user's id and the client's chat id.
func scopedChatID(userID, chatID string) string {
	if chatID == "" {
		return ""
	}
	user := sha256.Sum256([]byte(userID))
	sum := sha256.Sum256(append(user[:], chatID...)) // the fixed length of user[:] keeps different pairs apart
	return "0x" + hex.EncodeToString(sum[:])
}

// body returns a function that opens the body to send, and the body's length. A
// string value of stop is sent as a list: OpenAI accepts both, the node only a list.
func (r ChatRequest) body() (open func() io.Reader, length int) {
	start, end := 0, 0
	if strings.HasSuffix(r.Path, "/completions") {
		start, end = findStop(r.Body)
	}
	if start == end {
		return func() io.Reader { return bytes.NewReader(r.Body) }, len(r.Body)
	}
	return func() io.Reader {
		return io.MultiReader(
			bytes.NewReader(r.Body[:start]), strings.NewReader("["),
			bytes.NewReader(r.Body[start:end]), strings.NewReader("]"),
			bytes.NewReader(r.Body[end:]))
	}, len(r.Body) + 2
}

// findStop returns the start and the end of the string value of the top-level
// member "stop", or 0 and 0 if there is none.
func findStop(body []byte) (start, end int) {
	const key = `"stop"`
	if !bytes.Contains(body, []byte(key)) {
		return 0, 0
	}
	depth := 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			next := stringEnd(body, i)
			if depth == 1 && string(body[i:next]) == key {
				value := skipSpace(body, next)
				if value < len(body) && body[value] == ':' {
					value = skipSpace(body, value+1)
					if value < len(body) && body[value] == '"' {
						return value, stringEnd(body, value)
					}
				}
			}
			i = next - 1
		}
	}
	return 0, 0
}

// stringEnd returns the index after the string that starts at i, or the length
// of body if it does not end.
func stringEnd(body []byte, i int) int {
	for i++; i < len(body); i++ {
		switch body[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(body)
}

func skipSpace(body []byte, i int) int {
	for i < len(body) && strings.IndexByte(" \t\r\n", body[i]) >= 0 {
		i++
	}
	return i
}

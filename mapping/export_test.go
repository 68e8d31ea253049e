package mapping

import "fmt"

// Parse is Load of a text.
func Parse(data []byte) (*Table, error) {
	f, err := parseFile(data)
	if err != nil {
		return nil, fmt.Errorf("mapping: parse: %w", err)
	}
	return build(f, nil, nil), nil
}

const (
	MaxName     = maxName
	MaxFeedSize = maxFeedSize
)

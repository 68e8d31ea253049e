package proxyroutertest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// digest derives 32 bytes from its parts, in the form of ids on the chain.
func digest(parts ...any) string {
	sum := sha256.Sum256(fmt.Append(nil, parts...))
	return "0x" + hex.EncodeToString(sum[:])
}

func address(name string) string { return digest(name)[:42] }

// ModelID returns a well-formed id, the same for the same name.
func ModelID(name string) string { return digest("model", name) }

// ProviderAddress returns the address of the i-th provider of a node without
// Models, well-formed for any i.
func ProviderAddress(i int) string { return address("provider" + strconv.Itoa(i)) }

// parseID returns the canonical form of an id. Like the node it accepts either
// case, an id without 0x, and one whose first digit is left out.
func parseID(text string) (string, error) {
	digits := text
	if strings.HasPrefix(digits, "0x") || strings.HasPrefix(digits, "0X") {
		digits = digits[2:]
	}
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	raw, err := hex.DecodeString(digits)
	if err != nil {
		return "", err
	}
	if len(raw) != sha256.Size {
		return "", errors.New("invalid hash length")
	}
	return "0x" + hex.EncodeToString(raw), nil
}

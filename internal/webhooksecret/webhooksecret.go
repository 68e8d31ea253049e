// Package webhooksecret reads the secrets that sign webhooks, in the form of
// https://www.standardwebhooks.com.
package webhooksecret

import (
	"encoding/base64"
	"errors"
	"strings"
)

// prefix marks a symmetric secret.
const prefix = "whsec_"

var errSecret = errors.New(`must be "whsec_" and 24 to 64 bytes in base64: echo whsec_$(openssl rand -base64 32)`)

// Key returns the key that a secret stands for. Its error never repeats the secret.
func Key(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, prefix)
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errSecret
	}
	return key, nil
}

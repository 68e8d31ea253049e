// Package webhooksecret decodes the secrets that sign webhooks, in the format of
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

// Key returns the decoded key of a secret. Its error never repeats the secret.
func Key(secret string) ([]byte, error) {
	encoded, hasPrefix := strings.CutPrefix(secret, prefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !hasPrefix || err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errSecret
	}
	return key, nil
}

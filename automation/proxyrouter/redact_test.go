package proxyrouter_test

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
)

func TestErrorsAndLogs_HoldNoSecrets(t *testing.T) {
	basic := base64.StdEncoding.EncodeToString([]byte(username + ":" + password))
	canaries := []string{
		username, password, basic, url.QueryEscape(password), url.PathEscape(password),
		"sk-live-abcdef", "AlchemyKey", "someone@example.com", strings.Repeat("ab", 32),
	}
	echo := "user " + username + " password " + password + " header Basic " + basic + " Bearer sk-live-abcdef" +
		" escaped " + url.QueryEscape(password) + " " + url.PathEscape(password) +
		` Post "https://` + username + `:x@arb.example.com/v2/AlchemyKey?x=AlchemyKey": EOF someone@example.com key ` + strings.Repeat("ab", 32)
	for _, padding := range []int{0, 200, 290, 299, 400} {
		for _, quoted := range []bool{false, true} {
			body := strings.Repeat("x", padding) + " " + echo
			if quoted {
				body = `{"error":` + strconv.Quote(body) + `}`
			}
			var log bytes.Buffer
			c := serving(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusInternalServerError)
				_, _ = w.Write([]byte(body))
			}, func(o *proxyrouter.Options) {
				o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			})
			_, err := c.OpenSession(t.Context(), openRequest())
			_, err2 := c.WalletSessions(t.Context(), time.Time{})
			err3 := c.CloseSession(t.Context(), sessionID)
			texts := err.Error() + err2.Error() + err3.Error() + log.String()
			for _, canary := range canaries {
				if strings.Contains(texts, canary) {
					t.Errorf("with a padding of %d, errors and log have %q:\n%s", padding, canary, texts)
				}
			}
			if !strings.Contains(log.String(), "open session") {
				t.Errorf("the log lacks the open:\n%s", &log)
			}
		}
	}
}

func TestMessages_AreShortAndOneLine(t *testing.T) {
	for _, body := range []string{
		strings.Repeat("ö", 5000), "one\ntwo\x00\x1b[31m", "\xff\xfe", `{"error":{"code":7}}`,
		`execution at https://node.example.com/path failed`,
	} {
		_, err := answering(t, 500, body).Models(t.Context())
		text := err.Error()
		if len(text) > 400 || !utf8.ValidString(text) || strings.ContainsAny(text, "\n\x00\x1b") {
			t.Errorf("the error has %d bytes, or is not one line of UTF-8: %q", len(text), text)
		}
		if strings.Contains(body, "node.example.com") && !strings.Contains(text, "https://node.example.com failed") {
			t.Errorf("the error lacks the URL's host: %q", text)
		}
	}
}

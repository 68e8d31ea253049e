package automation_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// No settings, however malformed, cause a 5xx. Stored settings are within the bounds
// and equal to those sent.
func FuzzSettingsDecoder(f *testing.F) {
	for _, seed := range []string{
		validSettings, `{}`, `[]`, `null`, ``, `{"is_enabled":true}`, `{"session_duration":300}`, validSettings + validSettings, `{"is_enabled":true,"is_enabled":false,"session_duration":300}`,
		`{"is_enabled":null,"session_duration":null}`, `{"is_enabled":true,"session_duration":3e2}`, `{"is_enabled":true,"session_duration":86401}`,
		`{"is_enabled":true,"session_duration":-9223372036854775808}`, `{"is_enabled":true,"session_duration":18446744073709551916}`,
		"{\"is_enabled\":true,\"session_duration\":300,\"\\u0000\":1}", "\xff", "\xef\xbb\xbf" + validSettings, `{"is_\u0065nabled":true,"session_duration":300}`,
		`{"Is_Enabled":true,"session_duration":300}`, strings.Repeat("[", 100), strings.Repeat(" ", 5000) + validSettings,
	} {
		f.Add("PUT", "application/json", seed)
		f.Add("PATCH", "", seed)
	}
	f.Add("POST", "text/plain;", validSettings)
	h := newHarness(f, setup{})
	api := h.API()
	n := 0
	f.Fuzz(func(t *testing.T, method, media, body string) {
		if method != "PUT" && method != "POST" && method != "PATCH" {
			return
		}
		n++
		user := fmt.Sprint("user-", n) // the limit of writes is per user
		r := httptest.NewRequestWithContext(t.Context(), method, settingsPath, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer sk-"+user)
		if media != "" {
			r.Header["Content-Type"] = []string{media}
		}
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		checkAgainstOpenAPI(t, method, settingsPath, answer{w.Code, w.Header(), w.Body.String()})
		var stored struct {
			IsEnabled       bool  `db:"is_enabled"`
			SessionDuration int64 `db:"session_duration"`
		}
		err := h.db.Get(&stored, `SELECT is_enabled, session_duration FROM user_automation_settings WHERE user_id = $1`, user)
		switch {
		case w.Code >= http.StatusInternalServerError:
			t.Fatalf("%q: status %d, body %s; want no 5xx", body, w.Code, w.Body)
		case w.Code != http.StatusOK && err == nil:
			t.Fatalf("%q: status %d, but the settings were stored", body, w.Code)
		case err != nil:
			return
		case stored.SessionDuration < 300 || stored.SessionDuration > 86400:
			t.Fatalf("%q: stored the duration %d, want 300 to 86400", body, stored.SessionDuration)
		}
		sent := struct {
			IsEnabled       *bool    `json:"is_enabled"`
			SessionDuration *float64 `json:"session_duration"` // a float, because 600.0 is valid
		}{}
		if err := json.Unmarshal([]byte(body), &sent); err != nil {
			t.Fatalf("%q was stored, but encoding/json rejects it: %v", body, err)
		}
		if sent.IsEnabled != nil && *sent.IsEnabled != stored.IsEnabled {
			t.Fatalf("%q: stored is_enabled %v", body, stored.IsEnabled)
		}
		if sent.SessionDuration != nil && *sent.SessionDuration != float64(stored.SessionDuration) {
			t.Fatalf("%q: stored session_duration %d", body, stored.SessionDuration)
		}
	})
}

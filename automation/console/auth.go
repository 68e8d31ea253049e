package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The console's cookies. None has a path, so a browser sends them to the console's
// own folder only, whatever prefix the console is mounted below.
const (
	cookieOperator = "automation_operator" // who signed in with the token
	cookieCSRF     = "automation_csrf"
	cookieFlash    = "automation_flash"
)

// signInDuration is how long an operator stays signed in.
const signInDuration = 12 * time.Hour

// authorize returns the operator. Without one it answers the request with a
// redirect to the sign-in page or with an error.
func (c *console) authorize(w http.ResponseWriter, r *http.Request) (Operator, bool) {
	if c.opts.Authorize != nil {
		operator, err := c.opts.Authorize(r)
		if err != nil {
			c.fail(w, &request{Request: r}, &statusError{http.StatusForbidden, "You may not use this console."})
			return Operator{}, false
		}
		return operator, true
	}
	if cookie, err := r.Cookie(cookieOperator); err == nil {
		if name, ok := c.verify(cookie.Value); ok {
			return Operator{Name: name}, true
		}
	}
	if r.Method != http.MethodGet {
		c.fail(w, &request{Request: r}, &statusError{http.StatusForbidden, "Sign in first."})
		return Operator{}, false
	}
	seeOther(w, "login?to="+url.QueryEscape(strings.TrimPrefix(r.URL.RequestURI(), "/")))
	return Operator{}, false
}

// signingKey depends on the token alone, so that every replica accepts the
// cookies of the others, and a new token ends all of them.
func signingKey(token string) []byte {
	key := sha256.Sum256([]byte("automation console cookie\x00" + token))
	return key[:]
}

// sign makes the cookie of an operator who has signed in.
func (c *console) sign(name string) string {
	text := strconv.FormatInt(c.opts.Now().Add(signInDuration).Unix(), 10) + "." + base64.RawURLEncoding.EncodeToString([]byte(name))
	return text + "." + c.mac(text)
}

// verify returns the operator of a cookie that was signed here and has not expired.
func (c *console) verify(cookie string) (name string, ok bool) {
	i := strings.LastIndexByte(cookie, '.')
	if i < 0 || subtle.ConstantTimeCompare([]byte(c.mac(cookie[:i])), []byte(cookie[i+1:])) != 1 {
		return "", false
	}
	until, encoded, _ := strings.Cut(cookie[:i], ".")
	seconds, err := strconv.ParseInt(until, 10, 64)
	if err != nil || c.opts.Now().Unix() >= seconds {
		return "", false
	}
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	return string(text), err == nil
}

func (c *console) mac(text string) string {
	h := hmac.New(sha256.New, c.key)
	h.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func (c *console) showLogin(w http.ResponseWriter, r *http.Request) {
	if c.opts.Authorize != nil {
		seeOther(w, "")
		return
	}
	c.loginPage(w, r, http.StatusOK, "")
}

func (c *console) loginPage(w http.ResponseWriter, r *http.Request, status int, problem string) {
	req := &request{Request: r, csrf: csrfToken(w, r)}
	c.pages.render(w, status, "login.html", c.view(req, "Sign in", map[string]any{
		"Problem": problem, "To": localTarget(r.FormValue("to")), "Name": r.PostFormValue("name"),
	}))
}

// login lets the admin API check the token, because the API limits wrong guesses.
func (c *console) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	name := strings.TrimSpace(r.PostFormValue("name"))
	switch {
	case c.opts.Authorize != nil:
		http.NotFound(w, r)
		return
	case !validCSRF(w, r):
		c.loginPage(w, r, http.StatusForbidden, "The form was no longer valid. Try again.")
		return
	case !validName(name):
		c.loginPage(w, r, http.StatusBadRequest, "Enter your name: it goes into the audit. At most 64 characters.")
		return
	}
	switch status := c.admin.checkToken(r, r.PostFormValue("token")); status {
	case http.StatusOK:
	case http.StatusTooManyRequests:
		c.loginPage(w, r, status, "Too many wrong tokens. Wait a minute.")
		return
	case http.StatusUnauthorized, http.StatusNotFound:
		c.loginPage(w, r, http.StatusForbidden, "That is not the operators' token.")
		return
	default:
		c.loginPage(w, r, http.StatusServiceUnavailable, "The token cannot be checked at the moment: the database does not answer.")
		return
	}
	setCookie(w, r, cookieOperator, c.sign(name), signInDuration)
	seeOther(w, localTarget(r.PostFormValue("to")))
}

func (c *console) logout(w http.ResponseWriter, r *http.Request) {
	if validCSRF(w, r) {
		setCookie(w, r, cookieOperator, "", -time.Second)
	}
	seeOther(w, "login")
}

// validName reports whether a name may be written into the audit.
func validName(name string) bool {
	return name != "" && utf8.RuneCountInString(name) <= 64 && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// localTarget returns where to go after signing in: the requested page if it is
// one of the console, otherwise the overview.
func localTarget(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.IsAbs() || u.Host != "" || strings.ContainsAny(u.Path, "/\\:") {
		return ""
	}
	return to
}

// csrfToken returns the token for the page's forms, which the browser holds in a
// cookie that other sites neither read nor send.
func csrfToken(w http.ResponseWriter, r *http.Request) string {
	if cookie, err := r.Cookie(cookieCSRF); err == nil && len(cookie.Value) >= 20 {
		return cookie.Value
	}
	token := rand.Text()
	setCookie(w, r, cookieCSRF, token, signInDuration)
	return token
}

// maxForm is the maximum size of a form in bytes: a list of 10,000 ids fits.
const maxForm = 4 << 20

func validCSRF(w http.ResponseWriter, r *http.Request) bool {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	cookie, err := r.Cookie(cookieCSRF)
	return err == nil && cookie.Value != "" && subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(r.PostFormValue("csrf"))) == 1
}

// setCookie sets a cookie that scripts and other sites never see. A negative
// age removes it.
func setCookie(w http.ResponseWriter, r *http.Request, name, value string, age time.Duration) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure if the browser uses TLS; local trials do not
		Name: name, Value: value, MaxAge: int(age.Seconds()), HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https"),
	})
}

// flash is the message about the last action, which the next page shows once.
type flash struct {
	Message string
	Error   bool
}

func setFlash(w http.ResponseWriter, r *http.Request, message string) {
	setCookie(w, r, cookieFlash, base64.RawURLEncoding.EncodeToString([]byte(message)), time.Minute)
}

func takeFlash(w http.ResponseWriter, r *http.Request) flash {
	cookie, err := r.Cookie(cookieFlash)
	if err != nil || cookie.Value == "" {
		return flash{}
	}
	setCookie(w, r, cookieFlash, "", -time.Second)
	text, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil {
		return flash{}
	}
	message, isError := strings.CutPrefix(string(text), "error:")
	return flash{message, isError}
}

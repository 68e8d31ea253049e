package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// probe is one request of a check and its result.
type probe struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Status int    `json:"status"` // of HTTP; 0 where no answer came
	Detail string `json:"detail,omitempty"`
}

// probeTimeout bounds one request; a chat may have to wait for its session.
const probeTimeout = 90 * time.Second

func (a *app) check() *cobra.Command {
	var chat string
	cmd := &cobra.Command{
		Use: "check URL", Short: "Try a running gateway as a user would", Args: cobra.ExactArgs(1),
		Long: `Check asks a gateway whether it lives and is ready, and with a user's key, from
AUTOMATION_CHECK_KEY, for that user's status. It opens nothing that is paid,
unless --chat names a model: then it chats with it once, which may open a
session for the user. The exit code is 1 where something is not as it should
be. It needs no database; where DATABASE_URL is set, it also says what the
gateways report, such as a replica whose master switch is off.`,
		Example: "  automationctl check https://gateway.example.com\n" +
			"  AUTOMATION_CHECK_KEY=sk-probe automationctl check https://gateway.example.com --chat llama-3.3-70b",
		RunE: func(cmd *cobra.Command, args []string) error {
			base, err := url.Parse(strings.TrimSuffix(args[0], "/"))
			if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || base.User != nil {
				return usagef("expected the gateway's URL, such as https://gateway.example.com")
			}
			key := a.getenv("AUTOMATION_CHECK_KEY")
			if chat != "" && key == "" {
				return usagef("--chat needs a user's key in AUTOMATION_CHECK_KEY")
			}
			try := func(name, method, path, body string) probe {
				return send(cmd.Context(), name, method, base.String()+path, key, body)
			}
			probes := []probe{try("live", http.MethodGet, "/healthz/live", ""), try("ready", http.MethodGet, "/healthz/ready", "")}
			if key != "" {
				probes = append(probes, try("status", http.MethodGet, "/api/v1/automation/status", ""))
			}
			if chat != "" {
				text, err := json.Marshal(map[string]any{"model": chat, "max_tokens": 1, "messages": []any{map[string]string{"role": "user", "content": "ping"}}})
				if err != nil {
					return err
				}
				probes = append(probes, try("chat", http.MethodPost, "/api/v1/chat/completions", string(text)))
			}
			if cmp.Or(a.database, a.getenv("DATABASE_URL")) != "" {
				p, err := a.checkGateways(cmd.Context())
				if err != nil {
					return err
				}
				probes = append(probes, p)
			}
			well := true
			for _, p := range probes {
				well = well && p.OK
			}
			err = a.print(probes, func(w io.Writer) {
				row(w, "CHECK", "OK", "STATUS", "DETAIL")
				for _, p := range probes {
					row(w, p.Name, p.OK, p.Status, cmp.Or(p.Detail, "-"))
				}
			})
			if err == nil && !well {
				err = errFindings
			}
			return err
		},
	}
	cmd.Flags().StringVar(&chat, "chat", "", "chat once with this model; may open a paid session")
	return cmd
}

// send sends one request. The key goes into its header and nowhere else.
func send(ctx context.Context, name, method, to, key, body string) probe {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	p := probe{Name: name}
	r, err := http.NewRequestWithContext(ctx, method, to, strings.NewReader(body))
	if err != nil {
		p.Detail = "no request can be made of this URL"
		return p
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.Detail = "no answer"
		if e, ok := errors.AsType[*url.Error](err); ok {
			p.Detail = e.Err.Error()
		}
		return p
	}
	defer func() { _ = resp.Body.Close() }()
	p.Status, p.OK = resp.StatusCode, resp.StatusCode == http.StatusOK
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what came of it is enough to tell
	p.Detail = summarize(text)
	if s := resp.Header.Get("X-Automation-Session"); s != "" {
		p.Detail = "served by session " + s
	} else if name == "chat" && p.OK {
		p.OK, p.Detail = false, "answered, but without a session of automation"
	}
	return p
}

// summarize returns what an answer says about the gateway.
func summarize(text []byte) string {
	var answer struct {
		Detail string
		Reason string
		Error  struct{ Message string }
		Parts  map[string]struct {
			OK     bool
			Detail string
		}
	}
	if json.Unmarshal(text, &answer) != nil {
		return ""
	}
	var parts []string
	for name, part := range answer.Parts {
		if !part.OK {
			parts = append(parts, fmt.Sprintf("%s: %s", name, part.Detail))
		}
	}
	return cmp.Or(strings.Join(parts, "; "), answer.Detail, answer.Error.Message, answer.Reason)
}

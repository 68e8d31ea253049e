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

// probe is the result of one request of a check.
type probe struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Status int    `json:"status"` // the HTTP status; 0 without a response
	Detail string `json:"detail,omitempty"`
}

// probeTimeout limits one request; a chat may have to wait for its session.
const probeTimeout = 90 * time.Second

func (a *app) check() *cobra.Command {
	var chat string
	cmd := &cobra.Command{
		Use: "check URL", Short: "Send requests to a running gateway as a user would", Args: cobra.ExactArgs(1),
		Long: `Check asks a gateway whether it is live and ready. With a user's key in
AUTOMATION_CHECK_KEY it also asks for that user's status. It opens no paid
session unless --chat names a model: then it sends one chat to that model, which
may open a session for the user. The exit code is 1 if a check fails. It needs
no database; if DATABASE_URL is set, it also shows what the gateways report,
such as a replica whose master switch is off.`,
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
			request := func(name, method, path, body string) probe {
				return sendProbe(cmd.Context(), name, method, base.String()+path, key, body)
			}
			probes := []probe{request("live", http.MethodGet, "/healthz/live", ""), request("ready", http.MethodGet, "/healthz/ready", "")}
			if key != "" {
				probes = append(probes, request("status", http.MethodGet, "/api/v1/automation/status", ""))
			}
			if chat != "" {
				text, err := json.Marshal(map[string]any{"model": chat, "max_tokens": 1, "messages": []any{map[string]string{"role": "user", "content": "ping"}}})
				if err != nil {
					return err
				}
				probes = append(probes, request("chat", http.MethodPost, "/api/v1/chat/completions", string(text)))
			}
			if cmp.Or(a.database, a.getenv("DATABASE_URL")) != "" {
				p, err := a.checkGateways(cmd.Context())
				if err != nil {
					return err
				}
				probes = append(probes, p)
			}
			allOK := true
			for _, p := range probes {
				allOK = allOK && p.OK
			}
			err = a.print(probes, func(w io.Writer) {
				row(w, "CHECK", "OK", "STATUS", "DETAIL")
				for _, p := range probes {
					row(w, p.Name, p.OK, p.Status, cmp.Or(p.Detail, "-"))
				}
			})
			if err == nil && !allOK {
				err = errFindings
			}
			return err
		},
	}
	cmd.Flags().StringVar(&chat, "chat", "", "send one chat to this model; may open a paid session")
	return cmd
}

// sendProbe sends one request. Only the request's header contains the key.
func sendProbe(ctx context.Context, name, method, target, key, body string) probe {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	p := probe{Name: name}
	r, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	if err != nil {
		p.Detail = "the URL is invalid"
		return p
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.Detail = "no response"
		if e, ok := errors.AsType[*url.Error](err); ok {
			p.Detail = e.Err.Error()
		}
		return p
	}
	defer func() { _ = resp.Body.Close() }()
	p.Status, p.OK = resp.StatusCode, resp.StatusCode == http.StatusOK
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // after an error the beginning is enough for the detail
	p.Detail = summarize(text)
	if s := resp.Header.Get("X-Automation-Session"); s != "" {
		p.Detail = "served by session " + s
	} else if name == "chat" && p.OK {
		p.OK, p.Detail = false, "the response was not served by a session of automation"
	}
	return p
}

// summarize returns what a response says about the gateway: the components that are not
// OK, or its detail, error or reason.
func summarize(text []byte) string {
	var response struct {
		Detail string
		Reason string
		Error  struct{ Message string }
		Parts  map[string]struct {
			OK     bool
			Detail string
		}
	}
	if json.Unmarshal(text, &response) != nil {
		return ""
	}
	var parts []string
	for name, part := range response.Parts {
		if !part.OK {
			parts = append(parts, fmt.Sprintf("%s: %s", name, part.Detail))
		}
	}
	return cmp.Or(strings.Join(parts, "; "), response.Detail, response.Error.Message, response.Reason)
}

package proxyrouter

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// unixSeconds is a time of the chain. Sessions carry it as a JSON number, bids as
// a quoted string; 0 and null are "not yet".
type unixSeconds struct{ time.Time }

// maxUnix is the end of the year 9999: later times cannot be written as RFC 3339.
const maxUnix = 253402300799

func (u *unixSeconds) UnmarshalJSON(raw []byte) error {
	text := strings.Trim(string(raw), `"`)
	if text == "null" || text == "" {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > maxUnix {
		return errors.New("a time that is no unix seconds")
	}
	if n > 0 {
		u.Time = time.Unix(n, 0).UTC()
	}
	return nil
}

// integer is one of the chain's 256-bit integers, quoted or not.
type integer struct{ *big.Int }

func (i *integer) UnmarshalJSON(raw []byte) error {
	text := strings.Trim(string(raw), `"`)
	if text == "null" || text == "" {
		return nil
	}
	n, ok := new(big.Int), false
	if len(text) <= 78 { // 2^256 has 78 digits
		n, ok = n.SetString(text, 10)
	}
	if !ok {
		return errors.New("an integer that is none")
	}
	i.Int = n
	return nil
}

type wireSession struct {
	ID           string `json:"Id"`
	Provider     string
	ModelAgentID string `json:"ModelAgentId"`
	OpenedAt     unixSeconds
	EndsAt       unixSeconds
	ClosedAt     unixSeconds
}

func (w wireSession) session() (session.ChainSession, error) {
	if err := segment(w.ID); err != nil {
		return session.ChainSession{}, fmt.Errorf("a session with %w", err)
	}
	if w.OpenedAt.IsZero() || w.EndsAt.IsZero() {
		return session.ChainSession{}, errors.New("a session without OpenedAt or EndsAt")
	}
	return session.ChainSession{
		ID: w.ID, ModelID: w.ModelAgentID, Provider: w.Provider,
		OpenedAt: w.OpenedAt.Time, EndsAt: w.EndsAt.Time, ClosedAt: w.ClosedAt.Time,
	}, nil
}

func decodeSession(body []byte) (session.ChainSession, error) {
	var shape struct {
		Session *wireSession `json:"session"`
	}
	if err := unmarshal(body, &shape); err != nil {
		return session.ChainSession{}, err
	}
	if shape.Session == nil {
		return session.ChainSession{}, errors.New("an answer without a session")
	}
	return shape.Session.session()
}

func decodeSessions(body []byte) ([]session.ChainSession, error) {
	var shape struct {
		Sessions *[]wireSession `json:"sessions"`
	}
	if err := unmarshal(body, &shape); err != nil {
		return nil, err
	}
	if shape.Sessions == nil && !strings.Contains(string(body), `"sessions"`) {
		return nil, errors.New("an answer without sessions")
	}
	if shape.Sessions == nil { // null: an empty list, as Go writes one
		return nil, nil
	}
	list := make([]session.ChainSession, 0, len(*shape.Sessions))
	for _, w := range *shape.Sessions {
		s, err := w.session()
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func decodeOpened(body []byte) (string, error) {
	var shape struct {
		SessionID string `json:"sessionID"`
	}
	if err := unmarshal(body, &shape); err != nil {
		return "", err
	}
	if err := segment(shape.SessionID); err != nil {
		return "", fmt.Errorf("an answer with %w", err)
	}
	if strings.Trim(shape.SessionID, "0x") == "" {
		return "", errors.New("an answer with a zero id")
	}
	return shape.SessionID, nil
}

func decodeWallet(body []byte) (string, error) {
	var shape struct {
		Address string `json:"address"`
	}
	if err := unmarshal(body, &shape); err != nil {
		return "", err
	}
	if err := segment(shape.Address); err != nil {
		return "", fmt.Errorf("an answer with %w", err)
	}
	return shape.Address, nil
}

// unmarshal keeps the answer's own text out of the error.
func unmarshal(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	if _, ok := errors.AsType[*json.SyntaxError](err); ok || (err != nil && len(body) == 0) {
		return errors.New("an answer that is no JSON")
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("an answer with a wrong type in %q", wrong.Field)
	}
	return err
}

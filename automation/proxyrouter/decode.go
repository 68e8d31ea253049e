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

// unixSeconds is a time of the chain: a JSON number in sessions, a quoted string
// in bids; 0 and null are the zero time.
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
		return errors.New("a time that is not unix seconds")
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
		return errors.New("a malformed integer")
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
	if err := checkID(w.ID); err != nil {
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
	var wire struct {
		Session *wireSession `json:"session"`
	}
	if err := unmarshal(body, &wire); err != nil {
		return session.ChainSession{}, err
	}
	if wire.Session == nil {
		return session.ChainSession{}, errors.New("a response without a session")
	}
	return wire.Session.session()
}

func decodeSessions(body []byte) ([]session.ChainSession, error) {
	var wire struct {
		Sessions *[]wireSession `json:"sessions"`
	}
	if err := unmarshal(body, &wire); err != nil {
		return nil, err
	}
	if wire.Sessions == nil && !strings.Contains(string(body), `"sessions"`) {
		return nil, errors.New("a response without sessions")
	}
	if wire.Sessions == nil { // null: an empty list, as Go writes one
		return nil, nil
	}
	list := make([]session.ChainSession, 0, len(*wire.Sessions))
	for _, w := range *wire.Sessions {
		s, err := w.session()
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func decodeOpened(body []byte) (string, error) {
	var wire struct {
		SessionID string `json:"sessionID"`
	}
	if err := unmarshal(body, &wire); err != nil {
		return "", err
	}
	if err := checkID(wire.SessionID); err != nil {
		return "", fmt.Errorf("a response with %w", err)
	}
	if strings.Trim(wire.SessionID, "0x") == "" {
		return "", errors.New("a response with a zero id")
	}
	return wire.SessionID, nil
}

func decodeWallet(body []byte) (string, error) {
	var wire struct {
		Address string `json:"address"`
	}
	if err := unmarshal(body, &wire); err != nil {
		return "", err
	}
	if err := checkID(wire.Address); err != nil {
		return "", fmt.Errorf("a response with %w", err)
	}
	return wire.Address, nil
}

// unmarshal decodes a response without repeating its text in the error.
func unmarshal(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	if _, ok := errors.AsType[*json.SyntaxError](err); ok || (err != nil && len(body) == 0) {
		return errors.New("a response that is not JSON")
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("a response with a wrong type in %q", wrong.Field)
	}
	return err
}

package proxyrouter

import (
	"encoding/json"
	"errors"
	"fmt"
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

// wireSession is a session as the node sends it.
type wireSession struct {
	session.ChainSession `json:"-"`

	User, Provider string
	BidID          string
	Stake          json.RawMessage // may be too large for a float64 to be exact
}

// UnmarshalJSON rejects a session with a malformed id, or without OpenedAt or EndsAt.
func (w *wireSession) UnmarshalJSON(raw []byte) error {
	type fields wireSession // has no UnmarshalJSON, which would call itself
	var wire struct {
		fields
		ID           string `json:"Id"`
		ModelAgentID string `json:"ModelAgentId"`
		OpenedAt     unixSeconds
		EndsAt       unixSeconds
		ClosedAt     unixSeconds
	}
	if err := unmarshal(raw, &wire); err != nil {
		return err
	}
	id, err := pathID(wire.ID)
	if err != nil {
		return errors.New("a session with a malformed id")
	}
	if wire.OpenedAt.IsZero() || wire.EndsAt.IsZero() {
		return errors.New("a session without OpenedAt or EndsAt")
	}
	*w = wireSession(wire.fields)
	w.ChainSession = session.ChainSession{
		ID: id, ModelID: wire.ModelAgentID, Provider: w.Provider,
		OpenedAt: wire.OpenedAt.Time, EndsAt: wire.EndsAt.Time, ClosedAt: wire.ClosedAt.Time,
	}
	return nil
}

func decodeSession(body []byte) (wireSession, error) {
	var wire struct {
		Session *wireSession `json:"session"`
	}
	if err := unmarshal(body, &wire); err != nil {
		return wireSession{}, err
	}
	if wire.Session == nil {
		return wireSession{}, errors.New("a response without a session")
	}
	return *wire.Session, nil
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
	if wire.Sessions == nil { // null is how Go encodes a nil slice
		return nil, nil
	}
	list := make([]session.ChainSession, 0, len(*wire.Sessions))
	for _, w := range *wire.Sessions {
		if w.ID == "" {
			return nil, errors.New("a list with null in it")
		}
		list = append(list, w.ChainSession)
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
	id, err := pathID(wire.SessionID)
	if err != nil {
		return "", errors.New("a response with a malformed id")
	}
	if strings.Trim(id, "0x") == "" {
		return "", errors.New("a response with a zero id")
	}
	return id, nil
}

func decodeWallet(body []byte) (string, error) {
	var wire struct {
		Address string `json:"address"`
	}
	if err := unmarshal(body, &wire); err != nil {
		return "", err
	}
	if wire.Address == "" {
		return "", errors.New("a response without an address")
	}
	return wire.Address, nil
}

// unmarshal decodes a response without repeating its text in the error.
func unmarshal(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	if _, ok := errors.AsType[*json.SyntaxError](err); ok || (err != nil && len(body) == 0) {
		return errors.New("a response that is not JSON")
	}
	if typeErr, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("a response with a wrong type in %q", typeErr.Field)
	}
	return err
}

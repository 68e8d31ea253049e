package session

import (
	"context"
	"errors"
	"time"
)

// Provider is what the module asks of a Morpheus node, for one wallet.
// Package proxyrouter implements it.
//
// Every call must return by its context's deadline. An implementation wraps the
// errors below, so that errors.Is finds them, and wraps one only when it is
// certain: they decide whether a session may be paid again.
type Provider interface {
	// OpenSession opens one paid session and returns its id on the chain.
	// It must not retry. An error that is none of ErrNotOpened, ErrUnavailable
	// and ErrWalletCollision means that the outcome is unknown: a session may
	// have been opened and paid.
	OpenSession(ctx context.Context, req OpenRequest) (string, error)

	// CloseSession closes a session. Closing one that is closed already, or
	// that the chain does not know, is success.
	CloseSession(ctx context.Context, id string) error

	// GetSession reads one session from the chain, or ErrSessionNotFound.
	GetSession(ctx context.Context, id string) (ChainSession, error)

	// WalletSessions lists the wallet's sessions that were opened at or after
	// since, the newest first. Since is truncated to whole seconds.
	WalletSessions(ctx context.Context, since time.Time) ([]ChainSession, error)
}

// OpenRequest says what to open.
type OpenRequest struct {
	ModelID  string
	Duration time.Duration // whole seconds, at least 300 on today's chain
	// OmitProvider is the address of a provider not to be chosen, or empty.
	// Nodes that do not know the field ignore it.
	OmitProvider string
}

// ChainSession is a session as the chain has it.
type ChainSession struct {
	ID       string
	ModelID  string
	Provider string // address
	OpenedAt time.Time
	EndsAt   time.Time
	ClosedAt time.Time // zero while open
}

// What a Provider's errors mean.
var (
	// ErrNotOpened: the node said for certain that nothing was opened, and the
	// same request again would fail as well (no bids, no balance, bad model).
	ErrNotOpened = errors.New("session not opened")

	// ErrUnavailable: the request never reached the node, so nothing was opened.
	ErrUnavailable = errors.New("node unavailable")

	// ErrWalletCollision: two transactions of the wallet met. Most likely nothing
	// was opened, but only the wallet's sessions can tell.
	ErrWalletCollision = errors.New("wallet nonce collision")

	// ErrUnauthorized: the node refused our credentials. It comes together
	// with ErrNotOpened where an open was asked for.
	ErrUnauthorized = errors.New("node refused the credentials")

	// ErrSessionNotFound: the chain knows no session of that id.
	ErrSessionNotFound = errors.New("session not found on the chain")
)

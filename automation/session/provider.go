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
// errors below, so that errors.Is finds them. It may wrap one only if it is
// certain, because they decide whether another session may be paid for.
type Provider interface {
	// OpenSession opens one paid session and returns its id on the chain.
	// It must not retry. An error that is none of ErrNotOpened, ErrUnavailable
	// and ErrWalletCollision means that the outcome is unknown: a session may
	// have been opened and paid.
	OpenSession(ctx context.Context, req OpenRequest) (string, error)

	// CloseSession closes a session. It returns nil if the session is closed
	// already, or the chain does not know it.
	CloseSession(ctx context.Context, id string) error

	// GetSession reads one session from the chain. It returns ErrSessionNotFound
	// if the chain does not know it.
	GetSession(ctx context.Context, id string) (ChainSession, error)

	// WalletSessions lists the wallet's sessions that were opened at or after
	// since, the newest first. It ignores a fraction of a second in since.
	WalletSessions(ctx context.Context, since time.Time) ([]ChainSession, error)
}

// OpenRequest says what to open.
type OpenRequest struct {
	ModelID  string
	Duration time.Duration // whole seconds, at least 300 on today's chain
	// OmitProvider is the address of a provider that must not be chosen, or empty.
	// Nodes that do not know the field ignore it.
	OmitProvider string
}

// ChainSession is a session as the chain records it.
type ChainSession struct {
	ID       string
	ModelID  string
	Provider string // its address
	OpenedAt time.Time
	EndsAt   time.Time
	ClosedAt time.Time // zero while open
}

// The errors of a Provider.
var (
	// ErrNotOpened: it is certain that nothing was opened, and the same request
	// would fail again (no bids, unknown model).
	ErrNotOpened = errors.New("session not opened")

	// ErrUnavailable: the request never reached the node, so nothing was opened.
	ErrUnavailable = errors.New("node unavailable")

	// ErrWalletCollision: two transactions of the wallet had the same nonce. Most
	// likely nothing was opened, but only the list of the wallet's sessions shows it.
	ErrWalletCollision = errors.New("wallet nonce collision")

	// ErrUnauthorized: the node refused our credentials. An open that fails with
	// it wraps ErrNotOpened as well.
	ErrUnauthorized = errors.New("node refused the credentials")

	// ErrSessionNotFound: the chain has no session of that id.
	ErrSessionNotFound = errors.New("session not found on the chain")
)

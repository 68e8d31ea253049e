package session

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// newTestGroup returns a group without a database, with counts of the calls of background and undo.
func newTestGroup() (g *claimGroup, started, undone *int) {
	started, undone = new(int), new(int)
	return &claimGroup{
		background: func(func(context.Context)) bool { *started++; return true },
		undo:       func(claimRequest) { *undone++ },
	}, started, undone
}

// A request may leave while the statement with its claim is under way.
func TestClaimGroup_UndoesTheClaimOfARequestThatHasLeft(t *testing.T) {
	lost := fmt.Errorf("reply lost: %w", sqldb.ErrOutcomeUnknown)
	leased := []claimedRow{{Token: "token", row: row{ID: "row"}}}
	for name, tt := range map[string]struct {
		rows       []claimedRow
		err        error
		leaves     bool
		undone     int
		wantRow    bool
		wantErr    error
		notWantErr error
	}{
		"it has left, a session was leased":    {rows: leased, leaves: true, undone: 1},
		"it has left, no session was leased":   {leaves: true},
		"it has left, the outcome is unknown":  {err: lost, leaves: true, undone: 1},
		"it has left, no connection was free":  {err: sqldb.ErrUnavailable, leaves: true},
		"it waits, a session was leased":       {rows: leased, wantRow: true},
		"it waits, the outcome is unknown":     {err: lost, wantErr: sqldb.ErrOutcomeUnknown, notWantErr: errClaimAlone},
		"it waits, no connection was free":     {err: sqldb.ErrUnavailable, wantErr: sqldb.ErrUnavailable, notWantErr: errClaimAlone},
		"it waits, the statement was rejected": {err: errors.New("rejected"), wantErr: errClaimAlone},
	} {
		t.Run(name, func(t *testing.T) {
			g, _, undone := newTestGroup()
			w := g.join(claimRequest{token: "token"})
			var b claimBatch
			g.take(&b)
			if tt.leaves {
				g.leave(w)
			}
			g.deliver(&b, tt.rows, tt.err)
			if *undone != tt.undone {
				t.Errorf("%d claims undone, want %d", *undone, tt.undone)
			}
			if tt.leaves {
				return
			}
			r := g.leave(w) // its time is over when the result has come already
			if (r.row != nil) != tt.wantRow || !errors.Is(r.err, tt.wantErr) || tt.notWantErr != nil && errors.Is(r.err, tt.notWantErr) {
				t.Errorf("row %v, error %v; want a row: %t, error %v", r.row, r.err, tt.wantRow, tt.wantErr)
			}
		})
	}
}

// If no connection becomes free for a batch, the claims that came later are not part of it.
func TestClaimGroup_StartsAgainForClaimsThatCameLater(t *testing.T) {
	g, started, _ := newTestGroup()
	first := g.join(claimRequest{})
	g.leave(first)
	g.join(claimRequest{})
	var b claimBatch
	g.deliver(&b, nil, sqldb.ErrUnavailable)
	if *started != 2 || len(g.waiting) != 1 || !g.sending {
		t.Errorf("started %d times, %d claims wait, sending %t; want the later claim to be sent by a second start", *started, len(g.waiting), g.sending)
	}
	if late := g.take(&b); late != nil || len(g.waiting) != 1 {
		t.Error("a batch whose results were delivered has taken a claim")
	}
}

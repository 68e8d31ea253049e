package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// gateways is what users get from the processes that run, whatever the database
// says.
type gateways struct {
	Running   int    `json:"running"`    // have reported in the last minute
	MasterOff int    `json:"master_off"` // of those, with the master switch off: nobody has the feature there
	Behind    int    `json:"behind"`     // with the master switch on, but decide by an older version of the flag
	Detail    string `json:"detail"`     // for people
}

// readGateways summarizes what gateways report; version is the flag's.
func readGateways(ctx context.Context, db *sqlx.DB, version int64) (gateways, error) {
	list, err := replica.NewStore(db, nil).List(ctx)
	g := gateways{Running: len(list), Detail: "no gateway has reported in the last minute"}
	for _, r := range list {
		switch {
		case !r.FeatureEnabled:
			g.MasterOff++
		case r.FlagVersion < version:
			g.Behind++
		}
	}
	if len(list) > 0 {
		g.Detail = describeReplicas(list)
	}
	return g, err
}

// effect says what users get who have the feature by the flag.
func (g gateways) effect() string {
	switch {
	case g.Running == 0:
		return "nobody gets it: " + g.Detail
	case g.MasterOff == g.Running:
		return fmt.Sprintf("nobody gets it: the master switch is off on all %d gateways", g.Running)
	case g.MasterOff > 0:
		return fmt.Sprintf("only some of their requests get it: the master switch is off on %d of %d gateways", g.MasterOff, g.Running)
	case g.Behind > 0:
		return fmt.Sprintf("%d of %d gateways still decide by an older version of the flag", g.Behind, g.Running)
	case g.Running == 1:
		return "they get it on the one gateway that runs"
	}
	return fmt.Sprintf("they get it on all %d gateways", g.Running)
}

// explanation is a decision with what becomes of it. Gateways is nil for flags
// of the host's, which the master switch does not concern.
type explanation struct {
	flags.Explanation
	Gateways *gateways `json:"gateways"`
}

// rolloutStatus is a rollout with what becomes of its flag.
type rolloutStatus struct {
	rollout.Status
	Gateways *gateways `json:"gateways"`
}

// gatewaysOf returns what gateways make of a flag, or nil where they do not
// concern it or cannot be read, as with tables older than the command.
func (a *app) gatewaysOf(ctx context.Context, db *sqlx.DB, name string) *gateways {
	if name != automationFlag {
		return nil
	}
	f, err := flags.NewStore(db, flags.StoreOptions{}).Get(ctx, name)
	if err != nil {
		return nil
	}
	g, err := readGateways(ctx, db, f.Version)
	if err != nil {
		return nil
	}
	return &g
}

// checkGateways is the probe of what processes report, for check.
func (a *app) checkGateways(ctx context.Context) (probe, error) {
	p := probe{Name: "gateways"}
	db, err := a.open(false)
	if err != nil {
		return p, err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	f, err := flags.NewStore(db, flags.StoreOptions{}).Get(ctx, automationFlag)
	var g gateways
	if err == nil {
		g, err = readGateways(ctx, db, f.Version)
	}
	if err != nil {
		p.Detail = err.Error()
		return p, nil
	}
	p.OK = g.Running > 0 && g.MasterOff == 0 // to be behind is nothing wrong for some seconds after a change
	p.Detail = g.Detail
	if !p.OK {
		p.Detail = "whoever has it by the flag: " + g.effect()
	}
	return p, nil
}

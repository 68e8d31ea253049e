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

// gateways counts the running gateway processes by the effect of a flag on them.
type gateways struct {
	Running   int    `json:"running"`    // have reported in the last minute
	MasterOff int    `json:"master_off"` // run with the master switch off, so that nobody has the feature there
	Behind    int    `json:"behind"`     // run with the master switch on and an older version of the flag
	Detail    string `json:"detail"`     // a text for operators
}

// readGateways summarizes the gateways' reports; version is the flag's current version.
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

// effect describes the flag's effect for the users to whom it gives the feature.
func (g gateways) effect() string {
	switch {
	case g.Running == 0:
		return "nobody gets it: " + g.Detail
	case g.MasterOff == g.Running:
		return fmt.Sprintf("nobody gets it: the master switch is off on all %d gateways", g.Running)
	case g.MasterOff > 0:
		return fmt.Sprintf("only some of the users' requests get it: the master switch is off on %d of %d gateways", g.MasterOff, g.Running)
	case g.Behind > 0:
		return fmt.Sprintf("%d of %d gateways still use an older version of the flag", g.Behind, g.Running)
	case g.Running == 1:
		return "the users get it on the only running gateway"
	}
	return fmt.Sprintf("the users get it on all %d gateways", g.Running)
}

// explanation is a decision and its effect. Gateways is nil for flags of the host, to
// which the master switch does not apply.
type explanation struct {
	flags.Explanation
	Gateways *gateways `json:"gateways"`
}

// rolloutStatus is a rollout and the effect of its flag.
type rolloutStatus struct {
	rollout.Status
	Gateways *gateways `json:"gateways"`
}

// gatewaysOf returns the running gateways for the feature's own flag. It returns nil for
// another flag, or if the reports cannot be read, for example because the tables are older
// than the command.
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

// checkGateways returns the probe of the gateways' reports, for the command check.
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
	p.OK = g.Running > 0 && g.MasterOff == 0 // for some seconds after a change gateways may be behind
	p.Detail = g.Detail
	if !p.OK {
		p.Detail = "effect of the flag: " + g.effect()
	}
	return p, nil
}

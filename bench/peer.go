package main

import (
	"fmt"
	"strconv"
)

// The flags that every peer has.
const (
	rollout  = "rollout"  // for 50 %
	listed   = "listed"   // for 1,000 users, and 50 % of the others
	disabled = "disabled" // for nobody
)

// list is the thousand users.
func list() []string {
	users := make([]string, 1000)
	for i := range users {
		users[i] = "user-" + strconv.Itoa(i)
	}
	return users
}

// other returns the id of one of the users who are not in the list, as long as a UUID.
func other(i int) string {
	return fmt.Sprintf("%08x-0d0b-4b8e-9c39-3f8f2f0d9a11", i*2654435761%(1<<32))
}

// peer is a library, set up as its documentation recommends.
type peer struct {
	name string
	open func() (*opened, error)
}

type opened struct {
	// ask returns a function that does what a request needs: from the flag's name and
	// the user's id to the answer, the library's own form of a user included.
	ask   func(flag, user string) func() bool
	close func()
}

func peers() []peer {
	return []peer{
		{"**this module**", openOurs},
		{"Unleash v4.5.0", openUnleash},
		{"LaunchDarkly v7.14.6", openLaunchDarkly},
		{"ConfigCat v9.1.0", openConfigCat},
		{"GrowthBook v0.7.0", openGrowthBook},
		{"GO Feature Flag v1.55.2", openGoFeatureFlag},
	}
}

// cases are what is timed, each with a user for whom the rule in question decides.
func (o *opened) cases() map[string]func() bool {
	return map[string]func() bool{
		"rollout 50 %":             o.ask(rollout, o.in(rollout)),
		"listed among 1,000":       o.ask(listed, "user-777"),
		"unlisted, caught by 50 %": o.ask(listed, o.in(listed)),
		"disabled":                 o.ask(disabled, other(1)),
	}
}

var caseNames = []string{"rollout 50 %", "listed among 1,000", "unlisted, caught by 50 %", "disabled"}

// in returns a user whom the flag's 50 % include.
func (o *opened) in(flag string) string {
	for i := 0; ; i++ {
		if o.ask(flag, other(i))() {
			return other(i)
		}
	}
}

// check returns an error if the answers are wrong.
func (o *opened) check() error {
	share := func(flag string, users int) error {
		n := 0
		for i := range users {
			on := o.ask(flag, other(i))
			first := on()
			if on() != first {
				return fmt.Errorf("%s: two answers for one user", flag)
			}
			if first {
				n++
			}
		}
		if share := 100 * float64(n) / float64(users); share < 46 || share > 54 {
			return fmt.Errorf("%s: %.1f %% of the users are on, want 50 %%", flag, share)
		}
		return nil
	}
	if err := share(rollout, 10_000); err != nil {
		return err
	}
	if err := share(listed, 2000); err != nil {
		return err
	}
	for _, user := range list() {
		if !o.ask(listed, user)() {
			return fmt.Errorf("%s: %s is off", listed, user)
		}
		if o.ask(disabled, user)() {
			return fmt.Errorf("%s: %s is on", disabled, user)
		}
	}
	return nil
}

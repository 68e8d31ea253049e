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

// list returns the ids of the thousand listed users.
func list() []string {
	users := make([]string, 1000)
	for i := range users {
		users[i] = "user-" + strconv.Itoa(i)
	}
	return users
}

// unlisted returns the id of user i of those who are not in the list. It is as long
// as a UUID.
func unlisted(i int) string {
	return fmt.Sprintf("%08x-0d0b-4b8e-9c39-3f8f2f0d9a11", i*2654435761%(1<<32))
}

// peer is a library, set up as its documentation recommends.
type peer struct {
	name string
	open func() (*opened, error)
}

// opened is a library that has its flags.
type opened struct {
	// evaluator returns a function that does what a request needs: it makes the
	// library's own form of the user from the id, and evaluates the flag.
	evaluator func(flag, user string) func() bool
	close     func()
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

// cases returns the functions to measure by the names of their cases. Each evaluates
// a flag for a user for whom the case's rule decides.
func (o *opened) cases() map[string]func() bool {
	return map[string]func() bool{
		"rollout 50 %":             o.evaluator(rollout, o.userInRollout(rollout)),
		"listed among 1,000":       o.evaluator(listed, "user-777"),
		"unlisted, caught by 50 %": o.evaluator(listed, o.userInRollout(listed)),
		"disabled":                 o.evaluator(disabled, unlisted(1)),
	}
}

// caseNames has the cases in the order of the table.
var caseNames = []string{"rollout 50 %", "listed among 1,000", "unlisted, caught by 50 %", "disabled"}

// userInRollout returns an unlisted user who is among the flag's 50 %.
func (o *opened) userInRollout(flag string) string {
	for i := 0; ; i++ {
		if o.evaluator(flag, unlisted(i))() {
			return unlisted(i)
		}
	}
}

// check returns an error if the library gives wrong answers.
func (o *opened) check() error {
	checkShare := func(flag string, users int) error {
		n := 0
		for i := range users {
			isOn := o.evaluator(flag, unlisted(i))
			first := isOn()
			if isOn() != first {
				return fmt.Errorf("%s: two different answers for one user", flag)
			}
			if first {
				n++
			}
		}
		if share := 100 * float64(n) / float64(users); share < 46 || share > 54 {
			return fmt.Errorf("%s: %.1f %% of the unlisted users are on, want 46 to 54 %%", flag, share)
		}
		return nil
	}
	if err := checkShare(rollout, 10_000); err != nil {
		return err
	}
	if err := checkShare(listed, 2000); err != nil {
		return err
	}
	for _, user := range list() {
		if !o.evaluator(listed, user)() {
			return fmt.Errorf("%s: off for the listed user %s", listed, user)
		}
		if o.evaluator(disabled, user)() {
			return fmt.Errorf("%s: on for the user %s", disabled, user)
		}
	}
	return nil
}

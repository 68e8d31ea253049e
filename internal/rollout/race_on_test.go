//go:build race

package rollout

// underRace skips the simulations under the race detector. They take minutes there
// and have one goroutine each; CI also runs them without it.
const underRace = true

//go:build race

package rollout

// underRace skips the simulations, which run in one goroutine each and take
// minutes under the race detector; the suite runs without it as well.
const underRace = true

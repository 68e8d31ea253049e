package flags_test

import (
	"encoding/json"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// vector is a seed and a user with the bucket that they must have.
type vector struct {
	Seed   string `json:"seed"`
	User   string `json:"user"`
	Bucket int    `json:"bucket"`
}

// goldenVectors were computed by another implementation, Python's hashlib. Go is
// tested on them here, and SQL in TestBucket_IsTheSameInSQL.
func goldenVectors(t *testing.T) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/buckets.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []vector
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) < 60 {
		t.Fatalf("%d golden vectors, want at least 60", len(list))
	}
	return list
}

func TestBucket_MatchesGoldenVectors(t *testing.T) {
	for _, v := range goldenVectors(t) {
		if got := flags.Bucket(v.Seed, v.User); got != v.Bucket {
			t.Errorf("Bucket(%q, %q) = %d, want %d", v.Seed, v.User, got, v.Bucket)
		}
	}
}

func TestEvaluate_AllocatesNothing(t *testing.T) {
	f := &flags.Flag{Name: "automation", Enabled: true, EnabledUserIDs: ids(1000), DisabledUserIDs: flags.NewIDs("x"), Percentage: 1}
	if n := testing.AllocsPerRun(100, func() { flags.Evaluate(f, benchUser) }); n != 0 {
		t.Errorf("Evaluate allocates %v times, want 0", n)
	}
	longUser := strings.Repeat("x", 117)
	if n := testing.AllocsPerRun(100, func() { flags.Bucket("automation", longUser) }); n != 0 {
		t.Errorf("Bucket of 128 bytes allocates %v times, want 0", n)
	}
}

// The percentages of the deployment plan, and the smallest and largest ones.
func TestEvaluate_TurnsAPercentageOnForThatShareOfUsers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 2 s")
	}
	const users = 1_000_000
	decideAll := func(p flags.Percentage) []bool {
		f := &flags.Flag{Name: "automation", Enabled: true, Percentage: p}
		on, n := make([]bool, users), 0
		for i := range on {
			on[i] = flags.Evaluate(f, strconv.Itoa(i)).On
			if on[i] {
				n++
			}
		}
		if share := 100 * float64(n) / users; math.Abs(share-float64(p)/100) > 0.15 {
			t.Errorf("at %v %% the flag is on for %.3f %% of the users", p, share)
		}
		return on
	}
	last := decideAll(0)
	for _, p := range []flags.Percentage{1, 50, 10 * flags.Percent, 50 * flags.Percent, 9999, 100 * flags.Percent} {
		next := decideAll(p)
		for i := range last {
			if last[i] && !next[i] {
				t.Fatalf("the flag is off for user %d at %v %%, but on at a lower percentage", i, p)
			}
		}
		last = next
	}
}

func TestEvaluate_FlagsAreIndependentUnlessTheyShareASeed(t *testing.T) {
	const n, users = 40, 20_000
	cohorts := make([][]bool, n)
	for i := range cohorts {
		f := &flags.Flag{Name: "feature-" + strconv.Itoa(i), Enabled: true, Percentage: 50 * flags.Percent}
		for u := range users {
			cohorts[i] = append(cohorts[i], flags.Evaluate(f, strconv.Itoa(u)).On)
		}
	}
	for i := range n {
		for j := range i {
			if p := phi(cohorts[i], cohorts[j]); math.Abs(p) >= 0.03 {
				t.Errorf("the cohorts of flags %d and %d correlate: phi = %.3f, want below 0.03", i, j, p)
			}
		}
	}
	a := &flags.Flag{Name: "a", Seed: "shared", Enabled: true, Percentage: 1234}
	b := &flags.Flag{Name: "b", Seed: "shared", Enabled: true, Percentage: 1234}
	named := &flags.Flag{Name: "shared", Enabled: true, Percentage: 1234}
	for u := range users {
		user := strconv.Itoa(u)
		if d := flags.Evaluate(a, user); d != flags.Evaluate(b, user) || d != flags.Evaluate(named, user) {
			t.Fatalf("flags with the same seed decide differently about user %s", user)
		}
	}
}

// phi returns the phi coefficient of two lists: their correlation, -1 to 1.
func phi(a, b []bool) float64 {
	var n [2][2]float64
	index := map[bool]int{true: 1}
	for i := range a {
		n[index[a[i]]][index[b[i]]]++
	}
	a0, a1, b0, b1 := n[0][0]+n[0][1], n[1][0]+n[1][1], n[0][0]+n[1][0], n[0][1]+n[1][1]
	return (n[1][1]*n[0][0] - n[1][0]*n[0][1]) / math.Sqrt(a0*a1*b0*b1)
}

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

type vector struct {
	Seed   string `json:"seed"`
	User   string `json:"user"`
	Bucket int    `json:"bucket"`
}

// vectors were made by another implementation, Python's hashlib; the same run
// in Go here and in SQL in TestBucket_InSQLIsTheSame.
func vectors(t *testing.T) []vector {
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

func TestBucket_OfTheGoldenVectors(t *testing.T) {
	for _, v := range vectors(t) {
		if got := flags.Bucket(v.Seed, v.User); got != v.Bucket {
			t.Errorf("Bucket(%q, %q) = %d, want %d", v.Seed, v.User, got, v.Bucket)
		}
	}
}

func TestEvaluate_AllocatesNothing(t *testing.T) {
	long := &flags.Flag{Name: "automation", Enabled: true, EnabledUserIDs: ids(1000), DisabledUserIDs: flags.NewIDs("x"), Percentage: 1}
	if n := testing.AllocsPerRun(100, func() { flags.Evaluate(long, benchUser) }); n != 0 {
		t.Errorf("Evaluate allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { flags.Bucket("automation", strings.Repeat("x", 117)) }); n > 1 { // Repeat's own
		t.Errorf("Bucket of 128 bytes allocates %v times", n-1)
	}
}

// The shares that the plan goes through, on a million users.
func TestEvaluate_SharesOfAMillionUsers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 2 s")
	}
	const users = 1_000_000
	in := func(p flags.Percentage) []bool {
		f := &flags.Flag{Name: "automation", Enabled: true, Percentage: p}
		list, n := make([]bool, users), 0
		for i := range list {
			list[i] = flags.Evaluate(f, strconv.Itoa(i)).On
			if list[i] {
				n++
			}
		}
		if share := 100 * float64(n) / users; math.Abs(share-float64(p)/100) > 0.15 {
			t.Errorf("%v %% is %.3f %% of the users", p, share)
		}
		return list
	}
	last := in(0)
	for _, p := range []flags.Percentage{1, 50, 10 * flags.Percent, 50 * flags.Percent, 9999, 100 * flags.Percent} {
		next := in(p)
		for i := range last {
			if last[i] && !next[i] {
				t.Fatalf("user %d was in, and is not at %v %%", i, p)
			}
		}
		last = next
	}
}

func TestEvaluate_FlagsAreIndependentUnlessTheyShareASeed(t *testing.T) {
	const n, users = 40, 20_000
	cohort := make([][]bool, n)
	for i := range cohort {
		f := &flags.Flag{Name: "feature-" + strconv.Itoa(i), Enabled: true, Percentage: 50 * flags.Percent}
		for u := range users {
			cohort[i] = append(cohort[i], flags.Evaluate(f, strconv.Itoa(u)).On)
		}
	}
	pairs := 0
	for i := range n {
		for j := range i {
			pairs++
			if p := phi(cohort[i], cohort[j]); math.Abs(p) >= 0.03 {
				t.Errorf("flags %d and %d: phi = %.3f", i, j, p)
			}
		}
	}
	if pairs != 780 {
		t.Errorf("%d pairs, want 780", pairs)
	}
	a := &flags.Flag{Name: "a", Seed: "shared", Enabled: true, Percentage: 1234}
	b := &flags.Flag{Name: "b", Seed: "shared", Enabled: true, Percentage: 1234}
	named := &flags.Flag{Name: "shared", Enabled: true, Percentage: 1234}
	for u := range users {
		user := strconv.Itoa(u)
		if d := flags.Evaluate(a, user); d != flags.Evaluate(b, user) || d != flags.Evaluate(named, user) {
			t.Fatalf("user %s: flags of one seed differ", user)
		}
	}
}

// phi is the correlation of two yes-or-no columns.
func phi(a, b []bool) float64 {
	var n [2][2]float64
	index := map[bool]int{true: 1}
	for i := range a {
		n[index[a[i]]][index[b[i]]]++
	}
	a0, a1, b0, b1 := n[0][0]+n[0][1], n[1][0]+n[1][1], n[0][0]+n[1][0], n[0][1]+n[1][1]
	return (n[1][1]*n[0][0] - n[1][0]*n[0][1]) / math.Sqrt(a0*a1*b0*b1)
}

package httpapi_test

import (
	"net/http/httptest"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
)

func TestPreconditions_HoldAsInRFC9110(t *testing.T) {
	for _, tt := range []struct {
		match, noneMatch []string
		version          int64
		stored           bool
		want             bool
	}{
		{nil, nil, 5, true, true},
		{[]string{`"5"`}, nil, 5, true, true},
		{[]string{`"5"`}, nil, 6, true, false},
		{[]string{`W/"5"`}, nil, 5, true, false}, // If-Match compares strongly
		{[]string{`"4", "5"`}, nil, 5, true, true},
		{[]string{`"4"`, `"5"`}, nil, 5, true, true},
		{[]string{`"a,b", "5"`}, nil, 5, true, true},
		{[]string{"*"}, nil, 0, false, true},
		{[]string{""}, nil, 5, true, false},
		{nil, []string{`"5"`}, 5, true, false},
		{nil, []string{`W/"5"`}, 5, true, false}, // If-None-Match compares weakly
		{nil, []string{`"4"`}, 5, true, true},
		{nil, []string{"*"}, 0, false, true},
		{nil, []string{"*"}, 5, true, false},
		{[]string{`"5"`}, []string{`"5"`}, 5, true, false},
	} {
		r := httptest.NewRequest("PUT", "/", nil)
		r.Header["If-Match"], r.Header["If-None-Match"] = tt.match, tt.noneMatch
		if got := httpapi.ReadPreconditions(r).Hold(tt.version, tt.stored); got != tt.want {
			t.Errorf("If-Match %q, If-None-Match %q, version %d, stored %t: Hold = %t, want %t", tt.match, tt.noneMatch, tt.version, tt.stored, got, tt.want)
		}
	}
}

func FuzzPreconditions(f *testing.F) {
	for _, seed := range []string{`"5"`, `W/"5", "6"`, `*`, `,`, `"a,b"`, `"`, ` "5" `, "5"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, match, noneMatch string) {
		r := httptest.NewRequest("PUT", "/", nil)
		r.Header["If-Match"], r.Header["If-None-Match"] = []string{match}, []string{noneMatch}
		p := httpapi.ReadPreconditions(r)
		if version, ok := p.Version(); ok && (p.None() || !p.Hold(version, true)) {
			t.Errorf("If-Match %q, If-None-Match %q: None = %t and Hold(%d) = %t, want false and true for the only version", match, noneMatch, p.None(), version, p.Hold(version, true))
		}
	})
}

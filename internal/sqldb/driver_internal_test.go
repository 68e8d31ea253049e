package sqldb

import (
	"runtime/debug"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"
	_ "github.com/lib/pq"
)

func TestDriverWarning_NamesALibPQThatPoisonsPools(t *testing.T) {
	linked := func(path, version string) []*debug.Module {
		return []*debug.Module{{Path: "github.com/other", Version: "v1.12.3"}, {Path: path, Version: version}}
	}
	replaced := func(path, version string) []*debug.Module {
		deps := linked(libpq, "v1.12.3")
		deps[1].Replace = &debug.Module{Path: path, Version: version}
		return deps
	}
	for name, c := range map[string]struct {
		driver string
		linked []*debug.Module
		want   bool
	}{
		"the tested version":               {libpq, linked(libpq, "v1.11.2"), false},
		"the first bad version":            {libpq, linked(libpq, "v1.12.0"), true},
		"the last bad version":             {libpq, linked(libpq, "v1.12.3"), true},
		"a later version":                  {libpq, linked(libpq, "v1.13.0"), false},
		"linked, but another driver used":  {"github.com/jackc/pgx/v5/stdlib", linked(libpq, "v1.12.3"), false},
		"replaced by a good version":       {libpq, replaced(libpq, "v1.11.2"), false},
		"replaced by a bad version":        {libpq, replaced(libpq, "v1.12.2"), true},
		"replaced by a fork":               {libpq, replaced("example.com/pq", "v1.12.3"), false},
		"a program without module details": {libpq, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := driverWarning(c.driver, c.linked)
			if (got != "") != c.want || c.want && !strings.Contains(got, "go get github.com/lib/pq@v1.11.2") {
				t.Errorf("warning %q; want a warning: %v", got, c.want)
			}
		})
	}
}

func TestDriverWarning_KnowsTheDriverOfAPool(t *testing.T) {
	pool, err := sqlx.Open("postgres", "postgres://127.0.0.1:1/none?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if got := packageOf(pool.Driver()); got != libpq {
		t.Errorf("package %q of lib/pq's driver, want %q", got, libpq)
	}
	if got := packageOf(nil); got != "" {
		t.Errorf("package %q of nil, want none", got)
	}
	if got := DriverWarning(pool); got != "" {
		t.Errorf("warning about the version that go.mod requires: %s", got)
	}
}

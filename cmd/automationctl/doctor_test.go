package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
)

// runDoctor runs doctor, which must end with the exit code, and returns its findings by check.
func runDoctor(t *testing.T, s shell, code int, args ...string) map[string]finding {
	t.Helper()
	r := s.run(append([]string{"doctor", "--json"}, args...)...)
	var list []finding
	if err := json.Unmarshal([]byte(r.out), &list); err != nil || r.code != code {
		t.Fatalf("exit %d, want %d, error %v\n%s%s", r.code, code, err, r.out, r.errs)
	}
	found := map[string]finding{}
	for _, f := range list {
		found[f.Check] = f
	}
	return found
}

func TestDoctor_FindsProblems(t *testing.T) {
	dsn := pgtest.Start(t, pgtest.Options{}).Database(t)
	db := pgtest.Open(t, dsn)
	s := shell{t, map[string]string{"DATABASE_URL": dsn}}
	expect := func(found map[string]finding, check string, ok bool, detail string) {
		t.Helper()
		if f := found[check]; f.OK != ok || !strings.Contains(f.Detail, detail) {
			t.Errorf("finding %q: %+v; want OK %v and a detail with %q", check, f, ok, detail)
		}
	}

	found := runDoctor(t, s, 1)
	expect(found, "database", true, "no TLS")
	expect(found, "tables", false, "migration 1, automation, has not been applied")
	if r := s.run("migrate", "up"); r.code != 0 {
		t.Fatalf("exit %d: %s", r.code, r.errs)
	}
	found = runDoctor(t, s, 1)
	expect(found, "tables", true, "")
	expect(found, "rights", true, "")
	expect(found, "flag", true, "version 1, 0 %")
	expect(found, "gateways", false, "no gateway has reported in the last minute")

	store := replica.NewStore(db, nil)
	report := func(id string, state replica.State) {
		t.Helper()
		if err := store.Report(t.Context(), replica.Report{ID: id, Number: 1, State: state}); err != nil {
			t.Fatal(err)
		}
	}
	report("a", replica.State{FeatureEnabled: true})
	expect(runDoctor(t, s, 0), "gateways", true, "1 gateway has reported")
	report("b", replica.State{FeatureEnabled: false, Problems: map[string]string{"node": "does not respond"}, Rates: replica.Rates{Requests: 20, Failures: 15}})
	found = runDoctor(t, s, 1)
	for _, part := range []string{"2 gateways", "1 with the master switch off", "node: does not respond", "15 of 20 requests of the last minute failed"} {
		expect(found, "gateways", false, part)
	}
	t.Run("off and explain say which gateways follow", func(t *testing.T) {
		for _, args := range [][]string{{"off"}, {"on"}} {
			if r := s.run(args...); r.code != 0 || !strings.Contains(r.errs, "1 with the master switch off, so nobody has it there") {
				t.Errorf("%v: exit %d, want 0 and the gateways on standard error\n%s", args, r.code, r.errs)
			}
		}
	})
	t.Run("a missing privilege is one problem", func(t *testing.T) {
		for _, statement := range []string{`CREATE ROLE gateway LOGIN`, `REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC`} {
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		grants, err := os.ReadFile("../../deploy/grants.sql")
		if err != nil {
			t.Fatal(err)
		}
		for _, statement := range []string{string(grants), `GRANT automation_service TO gateway`, `REVOKE UPDATE ON automation_sessions FROM automation_service`} {
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		f := runDoctor(t, s, 1, "--role", "gateway")["rights"]
		if f.OK || strings.Count(f.Detail, "lacks") != 1 || !strings.Contains(f.Detail, "role gateway lacks UPDATE on automation_sessions") {
			t.Errorf("finding rights: %+v, want only the missing UPDATE", f)
		}
	})
	t.Run("the mapping and the node of the environment", func(t *testing.T) {
		node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthcheck" {
				w.WriteHeader(http.StatusNotFound)
			}
		}))
		file := filepath.Join(t.TempDir(), "m.json")
		if err := os.WriteFile(file, []byte(files["bad.json"]), 0o600); err != nil {
			t.Fatal(err)
		}
		s.env["MODEL_MAPPINGS_FILE"], s.env["PROXY_ROUTER_URL"] = file, node.URL
		found := runDoctor(t, s, 1)
		expect(found, "mapping", false, "line 2")
		expect(found, "node", true, "responds")
		node.Close()
		if err := os.WriteFile(file, []byte(files["good.json"]), 0o600); err != nil {
			t.Fatal(err)
		}
		found = runDoctor(t, s, 1)
		expect(found, "mapping", true, ": 1 models")
		expect(found, "node", false, "refused")
	})
}

func TestCommands_PrintTheEffectOnRunningGateways(t *testing.T) {
	ready := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer ready.Close()
	onBoth(t, func(t *testing.T, s shell, db *sqlx.DB) {
		for _, args := range [][]string{{"flags", "set", "automation", "--add-enabled-user", "7"}, {"rollout", "start", "automation", "--actor", "ann"}} {
			if r := s.run(args...); r.code != 0 {
				t.Fatalf("exit %d: %s", r.code, r.errs)
			}
		}
		var version int64
		if err := db.GetContext(t.Context(), &version, `SELECT version FROM feature_flags WHERE feature_name = 'automation'`); err != nil {
			t.Fatal(err)
		}
		store, number := replica.NewStore(db, nil), int64(0)
		for _, c := range []struct {
			name      string
			replicas  map[string]replica.State
			effect    string
			checkCode int
		}{
			{"no gateway has reported", nil, "nobody gets it: no gateway has reported in the last minute", codeFailed},
			{"one runs", map[string]replica.State{"a": {FeatureEnabled: true, FlagVersion: version}}, "the users get it on the only running gateway", 0},
			{"two run, one with the master switch off", map[string]replica.State{"b": {FlagVersion: version}},
				"only some of the users' requests get it: the master switch is off on 1 of 2 gateways", codeFailed},
			{"two run, both with the master switch off", map[string]replica.State{"a": {FlagVersion: version}}, "nobody gets it: the master switch is off on all 2 gateways", codeFailed},
			{"one of two uses an older version", map[string]replica.State{"a": {FeatureEnabled: true, FlagVersion: version}, "b": {FeatureEnabled: true, FlagVersion: version - 1}},
				"1 of 2 gateways still use an older version of the flag", 0},
			{"both use the current version", map[string]replica.State{"b": {FeatureEnabled: true, FlagVersion: version}}, "the users get it on all 2 gateways", 0},
		} {
			number++
			for id, state := range c.replicas {
				if err := store.Report(t.Context(), replica.Report{ID: id, Number: number, State: state}); err != nil {
					t.Fatal(err)
				}
			}
			for _, args := range [][]string{{"flags", "explain", "automation", "7"}, {"rollout", "status", "automation"}} {
				if r := s.run(args...); r.code != 0 || !strings.Contains(r.out, c.effect) {
					t.Errorf("%s: %v: exit %d, want 0 and %q in\n%s%s", c.name, args, r.code, c.effect, r.out, r.errs)
				}
			}
			if r := s.run("check", ready.URL); r.code != c.checkCode || (r.code != 0) != strings.Contains(r.out, c.effect) {
				t.Errorf("%s: check: exit %d, want %d, and %q only if it is not 0\n%s%s", c.name, r.code, c.checkCode, c.effect, r.out, r.errs)
			}
		}
		if r := s.run("flags", "explain", "automation", "8"); strings.Contains(r.out, "users get it") {
			t.Errorf("explain prints the effect for a user without the feature\n%s", r.out)
		}
		if r := s.run("rollout", "status", "automation", "--json"); !strings.Contains(r.out, `"running": 2`) || !strings.Contains(r.out, `"stage_name"`) {
			t.Errorf("rollout status --json lacks running or stage_name\n%s", r.out)
		}
	})
}

func TestDatabaseURL_AcceptsCommonFormats(t *testing.T) {
	dsn := pgtest.Database(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	host := u.Query().Get("host")
	if host == "" {
		host = u.Hostname()
	}
	python := *u
	python.Scheme = "postgresql+asyncpg"
	for _, format := range []string{dsn, python.String(), "host=" + host + " user=" + u.User.Username() + " dbname=" + strings.TrimPrefix(u.Path, "/") + " sslmode=disable"} {
		s := shell{t, map[string]string{"DATABASE_URL": format}}
		if r := s.run("migrate", "status"); r.code != 0 {
			t.Errorf("%s: exit %d, want 0\n%s", format, r.code, r.errs)
		}
	}
}

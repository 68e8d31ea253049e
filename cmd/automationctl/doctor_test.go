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

// diagnosis runs doctor and returns its findings by their name.
func diagnosis(t *testing.T, s shell, code int, args ...string) map[string]finding {
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

func TestDoctor_NamesWhatIsWrong(t *testing.T) {
	dsn := pgtest.Start(t, pgtest.Options{}).Database(t)
	db := pgtest.Open(t, dsn)
	s := shell{t, map[string]string{"DATABASE_URL": dsn}}
	expect := func(found map[string]finding, check string, ok bool, says string) {
		t.Helper()
		if f := found[check]; f.OK != ok || !strings.Contains(f.Detail, says) {
			t.Errorf("%s: %+v, want ok %v and %q", check, f, ok, says)
		}
	}

	found := diagnosis(t, s, 1)
	expect(found, "database", true, "no TLS")
	expect(found, "tables", false, "migration 1, automation, has not been applied")
	if r := s.run("migrate", "up"); r.code != 0 {
		t.Fatal(r.errs)
	}
	found = diagnosis(t, s, 1)
	expect(found, "tables", true, "")
	expect(found, "rights", true, "")
	expect(found, "flag", true, "version 1, 0 %")
	expect(found, "gateways", false, "none has reported in the last minute")

	store := replica.NewStore(db, nil)
	report := func(id string, state replica.State) {
		t.Helper()
		if err := store.Report(t.Context(), replica.Report{ID: id, Number: 1, State: state}); err != nil {
			t.Fatal(err)
		}
	}
	report("a", replica.State{FeatureEnabled: true})
	expect(diagnosis(t, s, 0), "gateways", true, "1 gateway has reported")
	report("b", replica.State{FeatureEnabled: false, Problems: map[string]string{"node": "it does not answer"}, Rates: replica.Rates{Requests: 20, Failures: 15}})
	found = diagnosis(t, s, 1)
	for _, part := range []string{"2 gateways", "1 with the master switch off", "node: it does not answer", "15 of 20 requests of the last minute failed"} {
		expect(found, "gateways", false, part)
	}
	t.Run("off and explain say which gateways follow", func(t *testing.T) {
		for _, args := range [][]string{{"off"}, {"on"}} {
			if r := s.run(args...); r.code != 0 || !strings.Contains(r.errs, "1 with the master switch off, so nobody has it there") {
				t.Errorf("%v: exit %d\n%s", args, r.code, r.errs)
			}
		}
	})
	t.Run("one right that is missing is one finding", func(t *testing.T) {
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
		f := diagnosis(t, s, 1, "--role", "gateway")["rights"]
		if f.OK || strings.Count(f.Detail, "may not") != 1 || !strings.Contains(f.Detail, "role gateway may not UPDATE automation_sessions") {
			t.Errorf("rights: %+v", f)
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
		found := diagnosis(t, s, 1)
		expect(found, "mapping", false, "line 2")
		expect(found, "node", true, "answers")
		node.Close()
		if err := os.WriteFile(file, []byte(files["good.json"]), 0o600); err != nil {
			t.Fatal(err)
		}
		found = diagnosis(t, s, 1)
		expect(found, "mapping", true, "names 1 models")
		expect(found, "node", false, "refused")
	})
}

func TestCommands_SayWhatUsersGetFromTheGatewaysThatRun(t *testing.T) {
	ready := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer ready.Close()
	onBoth(t, func(t *testing.T, s shell, db *sqlx.DB) {
		for _, args := range [][]string{{"flags", "set", "automation", "--add-enabled-user", "7"}, {"rollout", "start", "automation", "--actor", "ann"}} {
			if r := s.run(args...); r.code != 0 {
				t.Fatal(r.errs)
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
			says      string
			checkCode int
		}{
			{"nobody has reported", nil, "nobody gets it: no gateway has reported in the last minute", codeFailed},
			{"one runs", map[string]replica.State{"a": {FeatureEnabled: true, FlagVersion: version}}, "they get it on the one gateway that runs", 0},
			{"two run, one with the master switch off", map[string]replica.State{"b": {FlagVersion: version}},
				"only some of their requests get it: the master switch is off on 1 of 2 gateways", codeFailed},
			{"both have it off", map[string]replica.State{"a": {FlagVersion: version}}, "nobody gets it: the master switch is off on all 2 gateways", codeFailed},
			{"one has not read the change", map[string]replica.State{"a": {FeatureEnabled: true, FlagVersion: version}, "b": {FeatureEnabled: true, FlagVersion: version - 1}},
				"1 of 2 gateways still decide by an older version of the flag", 0},
			{"all have", map[string]replica.State{"b": {FeatureEnabled: true, FlagVersion: version}}, "they get it on all 2 gateways", 0},
		} {
			number++
			for id, state := range c.replicas {
				if err := store.Report(t.Context(), replica.Report{ID: id, Number: number, State: state}); err != nil {
					t.Fatal(err)
				}
			}
			for _, args := range [][]string{{"flags", "explain", "automation", "7"}, {"rollout", "status", "automation"}} {
				if r := s.run(args...); r.code != 0 || !strings.Contains(r.out, c.says) {
					t.Errorf("%s: %v: exit %d, without %q\n%s%s", c.name, args, r.code, c.says, r.out, r.errs)
				}
			}
			if r := s.run("check", ready.URL); r.code != c.checkCode || (r.code != 0) != strings.Contains(r.out, c.says) {
				t.Errorf("%s: check: exit %d\n%s%s", c.name, r.code, r.out, r.errs)
			}
		}
		if r := s.run("flags", "explain", "automation", "8"); strings.Contains(r.out, "they get it") {
			t.Errorf("a user who is out is said to get it\n%s", r.out)
		}
		if r := s.run("rollout", "status", "automation", "--json"); !strings.Contains(r.out, `"running": 2`) || !strings.Contains(r.out, `"stage_name"`) {
			t.Errorf("in JSON\n%s", r.out)
		}
	})
}

func TestDatabaseURL_TakesTheFormsThatPeopleHave(t *testing.T) {
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
	for _, form := range []string{dsn, python.String(), "host=" + host + " user=" + u.User.Username() + " dbname=" + strings.TrimPrefix(u.Path, "/") + " sslmode=disable"} {
		s := shell{t, map[string]string{"DATABASE_URL": form}}
		if r := s.run("migrate", "status"); r.code != 0 {
			t.Errorf("%s: exit %d\n%s", form, r.code, r.errs)
		}
	}
}

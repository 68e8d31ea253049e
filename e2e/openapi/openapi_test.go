// Package openapi_test checks the module's OpenAPI documents with two common linters,
// Spectral and Redocly. The tests are skipped unless these are installed: run
// `npm install --no-package-lock --ignore-scripts` in this folder.
package openapi_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

// lint runs one of the linters, with its own rules and without the network.
func lint(t *testing.T, name string, files ...string) (string, error) {
	t.Helper()
	arguments := map[string][]string{
		"spectral": {"lint", "--ruleset", ruleset(t), "--fail-severity", "error"},
		"redocly":  {"lint", "--extends", "recommended"},
	}
	program, err := filepath.Abs("node_modules/.bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, append(arguments[name], files...)...) //nolint:gosec // a linter of package.json
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func ruleset(t *testing.T) string {
	return write(t, "spectral.yaml", []byte("extends: ['spectral:oas']\n"))
}

func write(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDocuments_HaveNoError(t *testing.T) {
	if _, err := os.Stat("node_modules"); err != nil {
		if os.Getenv("AUTOMATION_TEST_REQUIRE_NPM") != "" {
			t.Fatal(err)
		}
		t.Skip("run npm install --no-package-lock --ignore-scripts in e2e/openapi for these tests")
	}
	users, operators := write(t, "users.json", automation.OpenAPIDocument()), write(t, "operators.json", automation.AdminOpenAPIDocument())
	invalid := write(t, "invalid.json", []byte(`{"openapi":"3.1.0","info":{"title":"Wrong","version":"1"},
		"paths":{"/x":{"get":{"responses":{"200":{"$ref":"#/components/responses/Nowhere"}}}}}}`))
	for _, linter := range []string{"spectral", "redocly"} {
		t.Run(linter, func(t *testing.T) {
			t.Parallel()
			if out, err := lint(t, linter, users, operators); err != nil {
				t.Errorf("%s finds errors: %v\n%s", linter, err, out)
			}
			if out, err := lint(t, linter, invalid); err == nil {
				t.Errorf("%s finds no error in an invalid document:\n%s", linter, out)
			}
		})
	}
}

package schema_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
)

func TestStatements_SplitsAFile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"nothing":                           {"", nil},
		"only comments":                     {"-- a; b;\n\n-- c\n", nil},
		"one, without a newline at the end": {"SELECT 1;", []string{"SELECT 1;"}},
		"two":                               {"SELECT 1;\n\nSELECT\n  2;\n", []string{"SELECT 1;", "SELECT\n  2;"}},
		"a comment after a statement":       {"SELECT 1; -- one; two\nSELECT 2;\n", []string{"SELECT 1; -- one; two", "SELECT 2;"}},
		"a comment within a statement":      {"SELECT 1, -- one;\n  2;\n", []string{"SELECT 1, -- one;\n  2;"}},
		"a semicolon within a line":         {"SELECT ';' AS a;\n", []string{"SELECT ';' AS a;"}},
		"a quoted body":                     {"DO $$\nBEGIN\n  a;\n  b;\nEND\n$$;\nSELECT 1;\n", []string{"DO $$\nBEGIN\n  a;\n  b;\nEND\n$$;", "SELECT 1;"}},
		"a quoted body in one line":         {"DO $$ a; $$;\nSELECT 1;\n", []string{"DO $$ a; $$;", "SELECT 1;"}},
		"a trigger of SQLite":               {"CREATE TRIGGER t\nBEGIN\n  a;\n  b;\nEND;\nSELECT 1;\n", []string{"CREATE TRIGGER t\nBEGIN\n  a;\n  b;\nEND;", "SELECT 1;"}},
		"a last one without a semicolon":    {"SELECT 1;\nSELECT 2\n", []string{"SELECT 1;", "SELECT 2"}},
		"line ends of Windows":              {"SELECT 1;\r\nSELECT 2;\r\n", []string{"SELECT 1;", "SELECT 2;"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, schema.Statements(c.text)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

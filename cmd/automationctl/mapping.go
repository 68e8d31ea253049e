package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// mappingResult is the result of a check of a mapping file.
type mappingResult struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Models   int              `json:"models"`
	Default  string           `json:"default,omitempty"`
	Problems []mappingProblem `json:"problems"`
}

type mappingProblem struct {
	Line    int    `json:"line"` // from 1; 0: the file as a whole
	Name    string `json:"name,omitempty"`
	Message string `json:"message"`
}

func (a *app) mapping() *cobra.Command {
	cmd := &cobra.Command{Use: "mapping", Short: "Check model_mappings.json", Args: noSuchCommand, RunE: showHelp}
	cmd.AddCommand(&cobra.Command{
		Use: "check [FILE]", Short: "Check a mapping file before it is deployed", Args: cobra.MaximumNArgs(1),
		Long: `Check reads a mapping file as the gateway does and lists all problems by line.
The exit code is 1 if there are any. Without FILE it reads MODEL_MAPPINGS_FILE.
It needs no database.`,
		Example: "  automationctl mapping check model_mappings.json",
		RunE: func(_ *cobra.Command, args []string) error {
			c := mappingResult{File: cmp.Or(a.getenv("MODEL_MAPPINGS_FILE"), "model_mappings.json"), Problems: []mappingProblem{}}
			if len(args) > 0 {
				c.File = args[0]
			}
			table, err := mapping.Load(c.File)
			parseErr, isParseError := errors.AsType[*mapping.ParseError](err)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return &cliError{code: codeNotFound, err: err, hint: "give the file: automationctl mapping check FILE"}
			case isParseError:
				for _, p := range parseErr.Problems {
					c.Problems = append(c.Problems, mappingProblem(p))
				}
			case err != nil:
				return err
			default:
				c.OK, c.Models, c.Default = true, len(table.Models()), table.Default().Name
			}
			err = a.print(c, func(w io.Writer) {
				if c.OK {
					_, _ = fmt.Fprintf(w, "OK: %s; names: %d; default: %s\n", c.File, c.Models, c.Default)
					return
				}
				row(w, "LINE", "NAME", "PROBLEM")
				for _, p := range c.Problems {
					row(w, p.Line, p.Name, p.Message)
				}
			})
			if err == nil && !c.OK {
				err = errFindings
			}
			return err
		},
	})
	return cmd
}

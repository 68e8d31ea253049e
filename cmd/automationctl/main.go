// Automationctl is the operators' command for the automation feature. It needs only
// the database, so it works while the gateway is down:
//
//	export DATABASE_URL=postgres://…
//	automationctl migrate up
//	automationctl verify --role gateway
//	automationctl flags set automation --percentage 10
//	automationctl rollout start automation
//	automationctl rollout watch automation
//
// docs/automationctl.md has every command and flag. The exit code is 0 after
// success, 1 after a failure or if a check found a problem, 2 for an invalid command
// line, 3 if something does not exist, 4 if another change came first or the step is
// not possible now, and 5 if the database is unavailable.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/internal/buildinfo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, in io.Reader, out, errs io.Writer) int {
	return (&app{getenv: getenv, in: in, out: out, errs: errs, isTerminal: isTerminal}).run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // not nil, for which cobra uses os.Args
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errs)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.parsed {
		err = usage(err) // cobra's error
	}
	return a.printError(err)
}

// root returns the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "automationctl",
		Short: "Operate the gateway's automation feature with only the database",
		Long: `automationctl migrates and verifies the automation feature's tables, changes its
flag, moves its rollout, and cleans up. It needs only the database, so it works
while the gateway is down.

The database is DATABASE_URL, postgres://… or sqlite:PATH. Running gateways see
a change within about a second; nothing has to be restarted.

Exit codes: 0 success; 1 failure, or a check found a problem; 2 invalid command
line; 3 something does not exist; 4 another change came first, or the step is
not possible now; 5 the database is unavailable.`,
		Example: `  export DATABASE_URL=postgres://owner@db/gateway
  automationctl migrate up
  automationctl flags set automation --percentage 10
  automationctl off   # switches the feature off within seconds`,
		SilenceUsage: true, SilenceErrors: true,
		Args:    noSuchCommand,
		RunE:    showHelp,
		Version: buildinfo.Version(),
		PersistentPreRun: func(*cobra.Command, []string) {
			a.parsed = true
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&a.database, "database", "", "the database, postgres://… or sqlite:PATH (default $DATABASE_URL, which keeps its password out of the process list)")
	f.BoolVar(&a.json, "json", false, "print JSON, including errors on standard error")
	f.StringVar(&a.actor, "actor", "", "your name in the audit (default the operating system's user)")
	root.AddCommand(a.offCommand(), a.onCommand(), a.doctor(), a.migrate(), a.verify(), a.check(), a.mapping(), a.flags(), a.rollout(), a.cleanup(), a.report(), a.feedback(), a.version())
	root.SetFlagErrorFunc(noSuchFlag)
	return root
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the versions of the module and of Go", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{buildinfo.Version(), runtime.Version()}
			return a.print(v, func(w io.Writer) { _, _ = fmt.Fprintf(w, "automationctl %s, %s\n", v.Version, v.Go) })
		},
	}
}

// showHelp runs if a subcommand is missing.
func showHelp(cmd *cobra.Command, _ []string) error {
	if err := cmd.Help(); err != nil {
		return err
	}
	return usage(nil)
}

// systemUser returns the user who runs the command.
func systemUser(getenv func(string) string) string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return getenv("USER")
}

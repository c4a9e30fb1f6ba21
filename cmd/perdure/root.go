package main

// The root command, and what every subcommand shares.

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
)

// cli is where a command reads its common flags and writes.
type cli struct {
	out    io.Writer // results
	errOut io.Writer // progress, warnings, logs
	format output.Format
	failed error // of the command that ran
}

func (c *cli) printer() output.Printer { return output.Printer{Format: c.format, W: c.out} }

// config loads the environment and warns of names that nothing reads. What is
// wrong in it is a usage error: nothing was tried.
func (c *cli) config() (config.Config, error) { return c.checked(config.Load()) }

func (c *cli) checked(cfg config.Config, err error) (config.Config, error) {
	for _, w := range config.Unknown() {
		fmt.Fprintln(c.errOut, "perdure: warning:", output.Safe(w))
	}
	return cfg, exit.Usage(err)
}

const rootLong = `Perdure runs tasks that must not get lost: accepted in your Postgres transaction,
carried by Kafka, run by stateless workers, claimed in Redis. What cannot run
becomes a dead letter, is grouped by cause, and is replayed.

Everything is told by environment variables (perdure config lists them).`

const rootExample = `# See it work: 2,400 disputes, a killed worker, a bank that is away
perdure demo

# Everything on this laptop, with embedded servers where none is configured
perdure up

# Where is my task, what holds it, and why is it dead?
perdure tasks get main-1-42
perdure why main-1-42
perdure dlq groups`

func newRoot(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:     "perdure <command>",
		Short:   "Tasks that must not get lost",
		Long:    rootLong,
		Example: rootExample,
	}
	root.SetOut(c.out)
	root.SetErr(c.errOut)
	c.format = output.Text
	root.PersistentFlags().VarP(&c.format, "output", "o", "text, json or jsonl")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exit.Usage(err) })
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Start"},
		&cobra.Group{ID: "roles", Title: "Roles"},
		&cobra.Group{ID: "tasks", Title: "Tasks"},
		&cobra.Group{ID: "dead", Title: "Dead letters"},
		&cobra.Group{ID: "setup", Title: "Set up and look after"},
	)
	for _, g := range []struct {
		id       string
		commands []*cobra.Command
	}{
		{"start", startCommands(c)},
		{"roles", roleCommands(c)},
		{"tasks", taskCommands(c)},
		{"dead", deadCommands(c)},
		{"setup", setupCommands(c)},
	} {
		for _, cmd := range g.commands {
			cmd.GroupID = g.id
			root.AddCommand(cmd)
		}
	}
	root.SetHelpCommandGroupID("setup")
	root.SetCompletionCommandGroupID("setup")
	prepare(c, root)
	return root
}

// prepare makes every command end the same way. What cobra finds wrong with
// arguments exits 2 like a wrong flag; a command that only groups others says
// which ones there are; and what a command returns is kept for run: fang, to
// colour an error, would first ask the terminal for its background.
func prepare(c *cli, cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		check = cobra.ArbitraryArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		return exit.Usage(cmp.Or(check(cmd, args), noneEmpty(cmd, args)))
	}
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = showSubcommands
		cmd.SuggestionsMinimumDistance = 2
	}
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			c.failed = run(cmd, args)
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		prepare(c, sub)
	}
}

// noneEmpty refuses what "$ID" is where there is no ID: it would name another path of
// the API. A note may be made empty.
func noneEmpty(cmd *cobra.Command, args []string) error {
	for i, arg := range args {
		if strings.TrimSpace(arg) == "" && (i == 0 || cmd.Name() != "note") {
			return fmt.Errorf("an argument is empty: is a shell variable not set? %s", cmd.UseLine())
		}
	}
	return nil
}

// helpOfNothing is the error of asking for the help of a command that is not
// there: cobra would show its parent's, as if all were well.
func helpOfNothing(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err != nil || !cmd.HasSubCommands() || len(rest) == 0 || strings.HasPrefix(rest[0], "-") {
		return nil // the usual way finds what is wrong
	}
	if !slices.Contains(rest, "--help") && !slices.Contains(rest, "-h") {
		return nil
	}
	switch rest[0] {
	case "help", "completion", "man", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd: // added as it executes
		return nil
	}
	return showSubcommands(cmd, rest)
}

func showSubcommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	msg := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		msg += ": did you mean " + strings.Join(near, " or ") + "?"
	}
	return exit.Usage(errors.New(msg))
}

package main

// Which commands there are, in the order of the help.

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

func startCommands(c *cli) []*cobra.Command {
	return []*cobra.Command{newDemo(c), newDemoWorker(c), newUp(c), newEnv(c)}
}

func roleCommands(c *cli) []*cobra.Command {
	return []*cobra.Command{newDispatcher(c), newRelay(c), newWorker(c), newReplayer(c), newFixJQ(c)}
}

func taskCommands(c *cli) []*cobra.Command {
	return []*cobra.Command{newEnqueue(c), newTasks(c), newWhy(c), newQueues(c), newOutbox(c), newBalance(c)}
}

func deadCommands(c *cli) []*cobra.Command {
	return []*cobra.Command{newDLQ(c), newReplay(c), newPolicy(c), newAudit(c)}
}

func setupCommands(c *cli) []*cobra.Command {
	return []*cobra.Command{newMigrate(c), newCatalog(c), newTopics(c), newConfig(c), newDoctor(c), newLoadtest(c)}
}

// buildVersion is the release's, else what the Go toolchain stamped.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

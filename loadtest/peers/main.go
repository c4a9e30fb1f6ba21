package main

// The command line.

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	var use *usageError
	switch {
	case errors.As(err, &use):
		fmt.Fprintln(os.Stderr, "peers:", err)
		fmt.Fprintln(os.Stderr, "usage: peers COMMAND [flags], peers COMMAND -h; commands: "+strings.Join(slices.Sorted(maps.Keys(commands)), ", "))
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return &usageError{errors.New("no command")}
	}
	if measure, ok := commands[args[0]]; ok {
		if err := measure(ctx, args[1:]); !errors.Is(err, flag.ErrHelp) {
			return err
		}
		return nil
	}
	switch args[0] {
	case "one": // what compare starts for each run of a peer
		return one(ctx, args[1:])
	case "held-side": // what held starts for each side where the work is spread over a time
		return overCommand(ctx, args[1:])
	}
	return &usageError{fmt.Errorf("there is no command %q", args[0])}
}

// commands are what people call; see doc.go.
var commands = map[string]func(context.Context, []string) error{
	"compare": compare,
	"enqueue": enqueueCommand,
	"insert":  insertCommand,
	"http":    httpCommand,
	"relay":   relayCommand,
	"held":    heldCommand,
	"letters": lettersCommand,
}

// one runs one peer once and prints the result as JSON.
func one(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return &usageError{errors.New("one: which peer?")}
	}
	peer, ok := peers[args[0]]
	if !ok {
		return &usageError{fmt.Errorf("one: there is no peer %q", args[0])}
	}
	var w work
	fs := flag.NewFlagSet("one", flag.ContinueOnError)
	w.flags(fs)
	if err := fs.Parse(args[1:]); err != nil {
		return &usageError{err}
	}
	if err := w.check(); err != nil {
		return &usageError{err}
	}
	srv, err := serversFromEnv()
	if err != nil {
		return err
	}
	res, err := peer(ctx, w, srv)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(res)
}

// peers are the systems that are not ours.
var peers = map[string]func(context.Context, work, servers) (*result, error){
	"river":         func(ctx context.Context, w work, s servers) (*result, error) { return runRiver(ctx, w, s, false) },
	"river-backlog": func(ctx context.Context, w work, s servers) (*result, error) { return runRiver(ctx, w, s, true) },
	"asynq":         runAsynq,
}

package jqchild

// The parent's side.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// LimitError says at which limit a run was stopped.
type LimitError string

func (e LimitError) Error() string { return string(e) }

// IsLimit reports whether a run was stopped at a limit.
func IsLimit(err error) bool {
	var l LimitError
	return errors.As(err, &l)
}

// ProgramError is a run that gave no one value: the program's doing, or the
// payload's. It holds no value of the payload.
type ProgramError string

func (e ProgramError) Error() string { return string(e) }

// patience is what a child may take beyond its own limit, by the clock: to start
// on a busy machine, to be given its turn, and to end.
const patience = 29 * time.Second

// Child runs one program. It starts its process when it is first asked, and
// again after that one has ended itself. Not for concurrent use.
type Child struct {
	command []string
	first   []byte
	most    int

	cmd    *exec.Cmd // nil = none runs
	in     io.WriteCloser
	out    *bufio.Reader
	errOut *tail
}

// New returns a Child that runs program in a process of command, which must call
// Serve. A value of more than most bytes is a LimitError.
func New(command []string, program string, most int) *Child {
	first, _ := json.Marshal(setup{program, most}) // two plain fields
	return &Child{command: command, first: first, most: most}
}

// Run runs the program once over payload, with $letter. nil and no error: the
// program gave nothing. A LimitError or ProgramError is about this payload; any
// other error says that no child could be run, or that ctx has ended.
func (c *Child) Run(ctx context.Context, letter, payload []byte) ([]byte, error) {
	if c.cmd == nil {
		if err := c.start(); err != nil {
			c.Close()
			return nil, fmt.Errorf("start a process for jq: %w", err)
		}
	}
	// A child that does not end itself is ended; its pipes then end what waits here.
	ctx, cancel := context.WithTimeout(ctx, Time+patience)
	defer cancel()
	process := c.cmd.Process
	stop := context.AfterFunc(ctx, func() { _ = process.Kill() }) // it may have ended by itself
	answer, err := c.ask(letter, payload)
	if !stop() && err == nil {
		err = ctx.Err() // killed just now
	}
	if err != nil {
		return nil, c.ended(ctx, err)
	}
	return c.read(answer)
}

// RunAll is Run over many payloads, none with a letter, that are on their way to
// the child while it works: answers come in their order. What answered returns ends it.
func (c *Child) RunAll(ctx context.Context, payloads [][]byte, answered func(i int, value []byte, err error) error) error {
	done, err := c.runSome(ctx, payloads, answered)
	if err != nil {
		return err
	}
	// The child ended itself at one of these: at which is seen one by one.
	for i := done; i < len(payloads); i++ {
		value, err := c.Run(ctx, nothing, payloads[i])
		if err := answered(i, value, err); err != nil {
			return err
		}
	}
	return nil
}

var nothing = []byte("null")

// runSome says how many answers came before the child ended itself.
func (c *Child) runSome(ctx context.Context, payloads [][]byte, answered func(i int, value []byte, err error) error) (done int, err error) {
	if c.cmd == nil {
		if err := c.start(); err != nil {
			c.Close()
			return 0, fmt.Errorf("start a process for jq: %w", err)
		}
	}
	process, in := c.cmd.Process, c.in
	kill := func() { _ = process.Kill() } // it may have ended by itself
	stop := context.AfterFunc(ctx, kill)
	defer stop()
	late := time.AfterFunc(Time+patience, kill)
	defer late.Stop()
	wrote := make(chan struct{})
	defer func() { <-wrote }()
	go func() {
		defer close(wrote)
		w := bufio.NewWriterSize(in, 64<<10)
		for _, b := range payloads {
			if writeFrame(w, nothing) != nil || writeFrame(w, b) != nil {
				return // what cannot be written gets no answer
			}
		}
		_ = w.Flush()
	}()
	for done < len(payloads) {
		answer, broken := readFrame(c.out)
		if broken != nil || len(answer) == 0 {
			c.Close() // it ends the writer too
			return done, ctx.Err()
		}
		late.Reset(Time + patience)
		value, bad := c.read(answer)
		if err := answered(done, value, bad); err != nil {
			c.Close()
			return done, err
		}
		done++
	}
	return done, nil
}

// read is what an answer says.
func (c *Child) read(answer []byte) ([]byte, error) {
	switch answer[0] {
	case sayValue:
		return answer[1:], nil
	case sayNothing:
		return nil, nil
	case sayLarge:
		return nil, LimitError(fmt.Sprintf("its value is larger than %d bytes", c.most))
	}
	return nil, ProgramError(answer[1:])
}

func (c *Child) ask(letter, payload []byte) ([]byte, error) {
	for _, b := range [][]byte{letter, payload} {
		if err := writeFrame(c.in, b); err != nil {
			return nil, err
		}
	}
	answer, err := readFrame(c.out)
	if err == nil && len(answer) == 0 {
		err = errors.New("an empty answer")
	}
	return answer, err
}

func (c *Child) start() error {
	cmd := exec.Command(c.command[0], c.command[1:]...) //nolint:gosec // the caller's own binary
	cmd.Env = []string{"GOMAXPROCS=1", "GOTRACEBACK=none"}
	c.errOut = &tail{}
	cmd.Stderr = c.errOut
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.cmd, c.in, c.out = cmd, in, bufio.NewReader(out)
	return writeFrame(in, c.first)
}

// ended says why a child ended before it answered.
func (c *Child) ended(ctx context.Context, cause error) error {
	cmd := c.cmd
	c.cmd = nil
	_ = c.in.Close()
	_ = cmd.Process.Kill() // it has ended, or says nothing that is understood
	_ = cmd.Wait()         // how it ended is in its state
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	said := c.errOut.String()
	switch code := cmd.ProcessState.ExitCode(); {
	case code == exitTime, errors.Is(ctx.Err(), context.DeadlineExceeded):
		return LimitError(fmt.Sprintf("it took more than %s", Time))
	case strings.Contains(said, "stack"):
		return LimitError("it went too deep")
	case code == exitMemory, code != 0 && code != 1:
		// Go's runtime gives up in several ways where it gets no memory, and the
		// kernel kills. A panic of jq itself is an answer.
		return LimitError(fmt.Sprintf("it wanted more than %d MiB of memory", Memory>>20))
	case code == 1:
		return ProgramError("jq: " + said)
	}
	return fmt.Errorf("jq's process ended without an answer (%s: %w) %s", cmd.ProcessState, cause, said)
}

// Close ends the child and waits for it.
func (c *Child) Close() {
	if c.cmd == nil {
		return
	}
	cmd := c.cmd
	c.cmd = nil
	_ = c.in.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// tail keeps the beginning of what a child says on stderr.
type tail struct{ b bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	t.b.Write(p[:min(len(p), max(0, 400-t.b.Len()))])
	return len(p), nil
}

// String is one line of it.
func (t *tail) String() string {
	line, _, _ := strings.Cut(strings.TrimSpace(t.b.String()), "\n")
	return line
}

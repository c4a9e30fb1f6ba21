package jqchild

// The child: one program, then a letter and its payload again and again.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/itchyny/gojq"
)

// Limits of one payload's run.
const (
	Time   = time.Second // of a processor: a busy machine holds no letter
	Memory = 256 << 20   // bytes that the child may hold, its own included
)

// How a child that ended itself exits.
const (
	exitTime   = 41
	exitMemory = 42
)

// The first byte of an answer.
const (
	sayValue   = 'v' // the JSON of the one value follows
	sayNothing = 'n'
	sayError   = 'e' // why follows
	sayLarge   = 'l'
)

// setup is the first frame.
type setup struct {
	Program string
	Most    int // bytes of a value
}

// Letter gives a program $letter.
var Letter = gojq.WithVariables([]string{"$letter"})

// Serve is the child's main: it answers on out until in ends.
func Serve(in io.Reader, out io.Writer) error {
	if err := limitMemory(); err != nil {
		return fmt.Errorf("limit its memory: %w", err)
	}
	debug.SetMemoryLimit(Memory * 3 / 4) // so that garbage is not what fills it
	r, w := bufio.NewReader(in), bufio.NewWriter(out)
	first, err := readFrame(r)
	if err != nil {
		return err
	}
	var s setup
	if err := json.Unmarshal(first, &s); err != nil {
		return err
	}
	q, err := gojq.Parse(s.Program)
	if err != nil {
		return err
	}
	code, err := gojq.Compile(q, Letter) // no environment, no modules, no input
	if err != nil {
		return err
	}
	flushed := time.Now()
	for {
		letter, err := readFrame(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		payload, err := readFrame(r)
		if err != nil {
			return err
		}
		over := watch()
		answer := run(code, letter, payload, s.Most)
		over()
		if err := writeFrame(w, answer); err != nil {
			return err
		}
		if r.Buffered() > 0 && time.Since(flushed) < flushEvery {
			continue // the next is here already
		}
		if err := w.Flush(); err != nil {
			return err
		}
		flushed = time.Now()
	}
}

// flushEvery bounds how long an answer waits for those after it.
const flushEvery = 100 * time.Millisecond

// began is when this process did.
var began = time.Now()

// watch ends the process once a run has had its time. Not a context: one step of
// a program can take any time.
func watch() (over func()) {
	until := spent() + Time
	var ended atomic.Bool
	var look func()
	look = func() {
		left := until - spent()
		switch {
		case ended.Load():
		case left <= 0:
			os.Exit(exitTime)
		default:
			time.AfterFunc(max(left, 10*time.Millisecond), look)
		}
	}
	first := time.AfterFunc(Time, look)
	return func() {
		ended.Store(true)
		first.Stop()
	}
}

// run gives the program's one value.
func run(code *gojq.Code, letter, payload []byte, most int) (answer []byte) {
	defer func() {
		if p := recover(); p != nil {
			answer = fail("the program made jq panic")
		}
	}()
	doc, err := decode(payload)
	if err != nil {
		return fail("the payload is not JSON")
	}
	about, err := decode(letter)
	if err != nil {
		return fail("the letter is not JSON")
	}
	values := code.Run(doc, about)
	v, ok := values.Next()
	if !ok {
		return []byte{sayNothing}
	}
	if err, bad := v.(error); bad {
		return fail(plain(err))
	}
	if again, more := values.Next(); more {
		if err, bad := again.(error); bad {
			return fail("after its first value: " + plain(err))
		}
		return fail("the program gave more than one value")
	}
	b, err := gojq.Marshal(v)
	switch {
	case err != nil:
		return fail("its value is no JSON")
	case len(b) > most:
		return []byte{sayLarge}
	}
	return append([]byte{sayValue}, b...)
}

func fail(why string) []byte { return append([]byte{sayError}, why...) }

// decode keeps numbers as they are written.
func decode(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

// Halts is the error of a program that calls halt.
const Halts = ProgramError("the program halts")

// plain is an error without values of the payload: who reads refusals may not
// be who may read payloads.
func plain(err error) string {
	var value gojq.ValueError
	var halt *gojq.HaltError
	switch {
	case errors.As(err, &halt):
		return string(Halts)
	case errors.As(err, &value):
		return "the program calls error"
	}
	s := err.Error()
	// The library shows a value as: string ("x"). What is in it can hold both brackets.
	if i, j := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')'); i >= 0 && j > i {
		s = s[:i] + "(…)" + s[j+1:]
	}
	if i, j := strings.IndexByte(s, '"'), strings.LastIndexByte(s, '"'); i >= 0 && j > i {
		s = s[:i] + `"…"` + s[j+1:]
	}
	return s
}

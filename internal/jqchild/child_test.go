package jqchild_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/jqchild"
	"github.com/perdure/perdure/internal/testkit"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "fix-jq" {
		if err := jqchild.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testkit.Main(m)
}

func start(t *testing.T, program string) *jqchild.Child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := jqchild.New([]string{self, "fix-jq"}, program, 1000)
	t.Cleanup(c.Close)
	return c
}

func TestOneProgramOverManyPayloads(t *testing.T) {
	c := start(t, `if .n == 2 then empty elif .n == 3 then 1, 2 else .kind = $letter.kind end`)
	for payload, want := range map[string]string{
		`{"n":1,"amount":12345678901234567890.10}`: `{"amount":12345678901234567890.10,"kind":"mail","n":1}`,
		`{"n":2}`:         "nothing",
		`{"n":3}`:         "more than one value",
		`[1]`:             "expected an object but got: array (…)",
		`{"n":1`:          "not JSON",
		`{"n":1} {"n":1}`: "not JSON",
	} {
		v, err := c.Run(t.Context(), []byte(`{"kind":"mail"}`), []byte(payload))
		got := string(v)
		if v == nil {
			got = "nothing"
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s gave %s, want %s", payload, got, want)
		}
	}
}

// Of many payloads each has its answer, though one of them ends the process.
func TestManyPayloadsAtOnce(t *testing.T) {
	c := start(t, `if . == 150 then "x" * 500000000 elif . == 160 then error else . end`)
	payloads := make([][]byte, 300)
	for i := range payloads {
		payloads[i] = fmt.Append(nil, i)
	}
	next := 0
	if err := c.RunAll(t.Context(), payloads, func(i int, value []byte, err error) error {
		switch {
		case i != next:
			t.Fatalf("answer %d after %d", i, next-1)
		case i == 150:
			if !jqchild.IsLimit(err) {
				t.Errorf("%d: %s %v, want a limit", i, value, err)
			}
		case i == 160:
			if err == nil || jqchild.IsLimit(err) {
				t.Errorf("%d: %s %v, want the program's error", i, value, err)
			}
		case err != nil, string(value) != fmt.Sprint(i):
			t.Errorf("%d: %s %v", i, value, err)
		}
		next++
		return nil
	}); err != nil || next != 300 {
		t.Errorf("%d answers, %v", next, err)
	}
	enough := errors.New("enough")
	if err := c.RunAll(t.Context(), payloads, func(int, []byte, error) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
}

// Whatever a program does to its process, the next payload is fixed.
func TestProgramsEndAtTheirLimits(t *testing.T) {
	for program, want := range map[string]string{
		// Loops: the time, or what they leave behind in memory, whichever is first.
		`def f: f; f`:            "it ",
		`[range(1e18)] | length`: "it ",
		`def f: [f]; f`:          "it ",

		`"x" * 500000000`: "it ",
		`reduce range(40) as $i ("xxxxxxxxxxxxxxxx"; . + .)`: "it ",
		`"x" * 2000`: "is larger than 1000 bytes",
	} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()

			c := start(t, `if . == "well" then 1 else (`+program+`) end`)
			began := time.Now()
			v, err := c.Run(t.Context(), []byte(`{}`), []byte(`"bad"`))
			if !jqchild.IsLimit(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("%d bytes, %v; want a limit: %s", len(v), err, want)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it was stopped after %s", took)
			}
			if v, err := c.Run(t.Context(), []byte(`{}`), []byte(`"well"`)); err != nil || string(v) != "1" {
				t.Errorf("the next payload: %s, %v", v, err)
			}
		})
	}
}

func TestErrorsTellNoValue(t *testing.T) {
	for _, program := range []string{`. + 1`, `error`, `error("x: " + .)`, `.[]`, `tonumber`, `halt_error`, `{(.): 1} | .[0]`, `fromjson`, `test("(")`, `ltrimstr("a") | implode`} {
		c := start(t, program)
		_, err := c.Run(t.Context(), []byte(`{}`), []byte(`"secret) (\"secret"`))
		if err == nil || strings.Contains(err.Error(), "secret") || jqchild.IsLimit(err) {
			t.Errorf("%s: %v", program, err)
		}
	}
}

func TestAProgramSeesNothingOfItsMachine(t *testing.T) {
	t.Setenv("PERDURE_TEST_SECRET", "secret")
	c := start(t, `[env, $ENV]`)
	if v, err := c.Run(t.Context(), []byte(`{}`), []byte(`1`)); err != nil || string(v) != `[{},{}]` {
		t.Errorf("%s, %v", v, err)
	}
	for _, program := range []string{`input`, `inputs`, `import "x" as x; .`, `include "x"; .`, `input_line_number`} {
		c := start(t, program)
		if v, err := c.Run(t.Context(), []byte(`{}`), []byte(`1`)); err == nil {
			t.Errorf("%s gave %s", program, v)
		}
	}
}

package lines

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestLongLinesAreSkippedAndTheRestIsRead(t *testing.T) {
	const limit = 200_000
	fits, long := strings.Repeat("a", limit), strings.Repeat("b", limit+1)
	text := "one\r\n\n  \n" + fits + "\n" + long + "\r\n" + strings.Repeat("c", 3*limit) + "\nlast"
	for name, r := range map[string]io.Reader{"whole": strings.NewReader(text), "halves": iotest.HalfReader(strings.NewReader(text))} {
		lines := NewReader(r, limit)
		for _, want := range []struct {
			number int
			text   string
			long   bool
		}{{1, "one", false}, {4, fits, false}, {5, "", true}, {6, "", true}, {7, "last", false}} {
			got, err := lines.Next()
			if err != nil || got.Number != want.number || got.TooLong != want.long || !want.long && string(got.Text) != want.text || len(got.Text) > limit {
				t.Fatalf("%s: line %d: got number %d, %d bytes, too long %v, %v", name, want.number, got.Number, len(got.Text), got.TooLong, err)
			}
		}
		if _, err := lines.Next(); !errors.Is(err, io.EOF) {
			t.Fatalf("%s: after the last: %v", name, err)
		}
	}
}

func TestBrokenReaderGivesNoHalfLine(t *testing.T) {
	lines := NewReader(io.MultiReader(strings.NewReader("one\ntw"), iotest.ErrReader(io.ErrUnexpectedEOF)), 100)
	if got, err := lines.Next(); err != nil || string(got.Text) != "one" {
		t.Fatalf("%q %v", got.Text, err)
	}
	if got, err := lines.Next(); !errors.Is(err, io.ErrUnexpectedEOF) || got.Number != 2 {
		t.Fatalf("line %d %q %v", got.Number, got.Text, err)
	}
}

func TestReadyNeverBlocks(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	lines := NewReader(r, 100)
	if lines.Ready() {
		t.Fatal("ready before anything was read")
	}
	go func() { _, _ = w.Write([]byte("one\ntwo\nthr")) }()
	if _, err := lines.Next(); err != nil {
		t.Fatal(err)
	}
	if !lines.Ready() {
		t.Fatal("two is there")
	}
	if _, err := lines.Next(); err != nil {
		t.Fatal(err)
	}
	if lines.Ready() {
		t.Fatal("half a line is no line")
	}
}

func TestAwaitedLinesAreReady(t *testing.T) {
	const text = "one\ntwo\nthree\n"
	lines := NewReader(iotest.OneByteReader(strings.NewReader(text)), 100)
	lines.Await(len(text))
	for _, want := range []string{"one", "two", "three"} {
		if !lines.Ready() {
			t.Fatalf("%s is not ready", want)
		}
		if got, err := lines.Next(); err != nil || string(got.Text) != want {
			t.Fatalf("%q %v, want %s", got.Text, err, want)
		}
	}
	if _, err := lines.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

// TestAwaitKeepsTheFailureForLater: behind the lines that came before it, and
// the reader is not asked again.
func TestAwaitKeepsTheFailureForLater(t *testing.T) {
	broken := errors.New("broken")
	lines := NewReader(io.MultiReader(strings.NewReader("one\ntw"), &failsOnce{broken}, strings.NewReader("o\n")), 100)
	lines.Await(100)
	if got, err := lines.Next(); err != nil || string(got.Text) != "one" {
		t.Fatalf("%q %v", got.Text, err)
	}
	if got, err := lines.Next(); !errors.Is(err, broken) || got.Number != 2 {
		t.Fatalf("line %d %q %v", got.Number, got.Text, err)
	}
}

// failsOnce has an error and then nothing more.
type failsOnce struct{ err error }

func (f *failsOnce) Read([]byte) (int, error) {
	err := f.err
	f.err = io.EOF
	return 0, err
}

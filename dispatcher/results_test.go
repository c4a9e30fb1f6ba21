package dispatcher

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

func TestResultsKeepTheirOrderThroughTheFile(t *testing.T) {
	r := newResults(100)
	var want bytes.Buffer
	for i := range 5000 { // nobody takes anything yet
		line := fmt.Appendf(nil, "line %d\n", i)
		want.Write(line)
		if _, err := r.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if r.file == nil || r.memory.Len() > 100 {
		t.Fatalf("%d bytes are kept in memory", r.memory.Len())
	}
	var got bytes.Buffer
	more := true
	err := r.pump(&got, func() error {
		if more { // once more while it is taken
			more = false
			want.WriteString("late\n")
			_, err := r.Write([]byte("late\n"))
			r.Close()
			return err
		}
		return nil
	})
	if err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Fatalf("%v: %d bytes, want %d", err, got.Len(), want.Len())
	}
}

func TestClientThatIsGoneEndsTheReading(t *testing.T) {
	gone := errors.New("gone")
	r := newResults(100)
	if _, err := r.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := r.pump(brokenWriter{gone}, func() error { return nil }); !errors.Is(err, gone) {
		t.Fatal(err)
	}
	if _, err := r.Write([]byte("b")); !errors.Is(err, gone) {
		t.Fatalf("got %v", err)
	}
}

type brokenWriter struct{ err error }

func (b brokenWriter) Write([]byte) (int, error) { return 0, b.err }

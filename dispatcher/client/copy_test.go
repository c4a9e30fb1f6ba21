package client

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// The bytes are the same however few are asked for at a time, and rows larger than
// what is asked for come in parts. That they are what COPY wants, tests with a server
// say.
func TestTheStreamIsTheSameHoweverItIsRead(t *testing.T) {
	t.Parallel()
	var rows []*row
	var ids []int64
	for i := range 60 {
		r := &row{kind: "k", queue: "q", contentType: "application/json", payload: bytes.Repeat([]byte{byte(i)}, (i*i*70)%9000)}
		switch i % 5 {
		case 1:
			r.key = fmt.Sprint("key", i)
		case 2:
			r.headers, r.deadline = `{"a": "`+strings.Repeat("b", i)+`"}`, time.Unix(int64(i), 0)
		case 3:
			r.payload = bytes.Repeat([]byte{byte(i)}, i*3500) // up to 200 KB
		}
		rows, ids = append(rows, r), append(ids, int64(i+i/50))
	}
	stream := func() io.Reader { return &copyStream{rows: rows, ids: ids, generation: 1, bundles: true} }
	var want bytes.Buffer
	buf := make([]byte, 1<<20)
	if _, err := io.CopyBuffer(struct{ io.Writer }{&want}, stream(), buf); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{7, 63, 64, 1000, 8192, 65531} {
		var got bytes.Buffer
		if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, stream(), make([]byte, size)); err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("read by %d: %d bytes, want the same %d (%v)", size, got.Len(), want.Len(), err)
		}
	}
	// What is written at once stays within what was given for it.
	s := &copyStream{rows: rows, ids: ids, generation: 1, bundles: true}
	p := bytes.Repeat([]byte{0xaa}, 8192)
	for {
		n, err := s.Read(p[:4096])
		if errors.Is(err, io.EOF) {
			break
		}
		if n > 4096 || len(bytes.Trim(p[4096:], "\xaa")) > 0 {
			t.Fatalf("a read of 4096 wrote beyond: n = %d", n)
		}
	}
}

func TestTheSizeOfARowIsNotExceeded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100)
	for _, n := range []int{1, 2, bundleTasks} {
		for _, key := range []string{"", "k", long[:90]} {
			var rows []*row
			var ids []int64
			for i := range n {
				rows = append(rows, &row{kind: long, queue: long, contentType: long, key: key, payload: []byte("{}"), headers: `{"h": "v"}`, deadline: time.Unix(1, 0)})
				ids = append(ids, int64(i))
			}
			s := &copyStream{rows: rows, ids: ids, generation: 1, bundles: true}
			if !s.next() || s.to != n {
				t.Fatalf("%d tasks do not share a row", n)
			}
			if got := len(s.append(nil)); got > s.size() {
				t.Errorf("%d tasks, key %q: %d bytes, said %d", n, key, got, s.size())
			}
		}
	}
}

package main

import (
	"bytes"
	"os"
	"testing"
)

func TestTheCommittedFileIsWhatIsGenerated(t *testing.T) {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../disputes.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), have) {
		t.Error("disputes.ndjson is stale: run `go generate ./examples/disputes`")
	}
}

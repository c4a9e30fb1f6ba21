package dispatcher

import (
	"encoding/json"
	"testing"
)

func TestAnAcceptedLineIsWrittenAsEncodingJSONDoes(t *testing.T) {
	for _, l := range []LineResult{
		{Line: 1, ID: "main-1-17", Seq: 17, State: "queued"},
		{Line: 100000, ID: "eu_west.2-3-9223372036854775807", Seq: 9223372036854775807, State: "scheduled", Replayed: true},
		{Line: 2, ID: "main-1-1", Seq: 1, State: "queued", Duplicate: true},
	} {
		want, err := json.Marshal(&l)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(l.append(nil)); got != string(want)+"\n" {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

package worker

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Else a Redis that is lost in that moment would grant it as if its attempt had failed.
func TestWhoLooksAfterWorkElsewhereSaysSo(t *testing.T) {
	d := &delivery{rec: &kgo.Record{}, asg: &assignment{intake: &intake{}}}
	if d.record().Timer {
		t.Error("a record asks as one that sees after work elsewhere, and is none")
	}
	d.elsewhere = time.Minute // it waits at its own record
	if !d.record().Timer {
		t.Error("a record that sees after work elsewhere does not say so")
	}
	d.elsewhere, d.timer = 0, true // it was made for that
	if !d.record().Timer {
		t.Error("a timer does not say that it is one")
	}
}

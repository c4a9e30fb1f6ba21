package schemas_test

import (
	"reflect"
	"testing"

	"github.com/perdure/perdure/schemas"
)

func TestALineIsReadAsItIsWritten(t *testing.T) {
	for _, l := range []schemas.Line{
		{Verb: schemas.LineAsk, Lift: 1}, {Verb: schemas.LineEnd, Lift: 1<<63 - 1}, {Verb: schemas.LineFrom, Lift: 7},
		{Verb: schemas.LineLift, Lift: 3}, {Verb: schemas.LineLift, Lift: 3, Letters: []string{"main-1-2@0", "a-b-1-9@12"}},
		{Verb: schemas.LineDead, Why: "/amount is not a number"}, {Verb: schemas.LineDead, Lift: 4, Why: ""},
	} {
		got, ok := schemas.ParseLine(l.String())
		if !ok || !reflect.DeepEqual(got, l) {
			t.Errorf("%q is read as %+v, %v", l, got, ok)
		}
		mark := l.Verb == schemas.LineAsk || l.Verb == schemas.LineEnd || l.Verb == schemas.LineLift
		if l.Mark() != mark {
			t.Errorf("%q: a mark is %v", l, l.Mark())
		}
	}
	for _, s := range []string{"", "ask", "ask 0", "ask -1", "ask 01", "from", "halt 1", "end 1 ", "end 1 x", "lift 1 x", "lift 1 main-1-1@", "lift 1  main-1-1@0", "dead", "dead x y", "ask 9223372036854775808"} {
		if l, ok := schemas.ParseLine(s); ok {
			t.Errorf("%q is read as %+v", s, l)
		}
	}
}

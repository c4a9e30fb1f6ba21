package foreign

// Records of nobody that we know: what their headers, or else their value, call
// an error.

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// clues are the ends of names, letters and digits alone, in the order of trust:
// "X-Error-Message" and "error.message" both end with errormessage.
var clues = struct{ class, message, stack, topic, partition, offset []string }{
	class:     []string{"exceptionclass", "exceptionclassname", "exceptionfqcn", "exceptiontype", "errorclass", "errortype", "errorcode", "errorname"},
	message:   []string{"exceptionmessage", "errormessage", "errormsg", "errorreason", "failurereason", "deadletterreason", "dlqreason", "errordescription", "error", "exception", "reason"},
	stack:     []string{"stacktrace", "exceptionstack", "errorstack", "traceback"},
	topic:     []string{"originaltopic", "sourcetopic", "origintopic", "errortopic"},
	partition: []string{"originalpartition", "sourcepartition", "originpartition", "errorpartition"},
	offset:    []string{"originaloffset", "sourceoffset", "originoffset", "erroroffset"},
}

// guess fills in what the record's names suggest.
func guess(r *kgo.Record, l *Letter) {
	names := make([]string, len(r.Headers))
	for i, h := range r.Headers {
		names[i] = plain(h.Key)
	}
	find := func(ends []string) []byte {
		for _, end := range ends {
			for i := len(names) - 1; i >= 0; i-- {
				if strings.HasSuffix(names[i], end) && len(r.Headers[i].Value) > 0 {
					return r.Headers[i].Value
				}
			}
		}
		return nil
	}
	str := func(b []byte) string {
		if b = b[:min(len(b), maxText)]; !utf8.Valid(b) {
			return ""
		}
		return string(b)
	}
	l.Class, l.Message = str(find(clues.class)), str(find(clues.message))
	l.Origin.Topic = str(find(clues.topic))
	l.Origin.Partition, l.Origin.Offset = coordinate(find(clues.partition), find(clues.offset))
	trace := str(find(clues.stack))
	if l.Class == "" && l.Message == "" && trace == "" {
		trace = l.fromValue(r.Value)
	}
	l.explain(trace)
}

// fromValue looks for the error in a JSON object: its own fields, or those of an
// object in it that is named so.
func (l *Letter) fromValue(b []byte) (trace string) {
	if b = bytes.TrimLeft(b, " \t\r\n"); len(b) == 0 || b[0] != '{' || len(b) > 1<<20 {
		return ""
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(b, &fields) != nil {
		return ""
	}
	for _, inner := range []string{"error", "exception", "failure"} {
		var nested map[string]json.RawMessage
		if json.Unmarshal(fields[inner], &nested) == nil && len(nested) > 0 {
			fields = map[string]json.RawMessage{}
			for name, v := range nested {
				fields["error"+name] = v // its message is the error's
			}
			break
		}
	}
	names := slices.Sorted(maps.Keys(fields)) // the same record gives the same letter
	find := func(ends []string) string {
		for _, end := range ends {
			for _, name := range names {
				var s string
				if plain(name) == end && json.Unmarshal(fields[name], &s) == nil && s != "" {
					return s[:min(len(s), maxText)]
				}
			}
		}
		return ""
	}
	l.Class, l.Message = find(clues.class), find(clues.message)
	return find(append(clues.stack[:len(clues.stack):len(clues.stack)], "errorstacktrace"))
}

// plain is a name without what separates its words.
func plain(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return c + ('a' - 'A')
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			return c
		}
		return -1
	}, name)
}

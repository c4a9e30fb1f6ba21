package dlq

// A record's headers as the index keeps them: JSON, which people read with psql.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// encodeHeaders gives [[name, base64 value], …]; a name that is not text is ""
// with its base64 as a third element. A nil value is null.
func encodeHeaders(hs []kgo.RecordHeader) []byte {
	if len(hs) == 0 {
		return nil
	}
	n := 2
	for _, h := range hs {
		n += len(h.Key) + base64.StdEncoding.EncodedLen(len(h.Value)) + len(`["",""],`)
	}
	b := append(make([]byte, 0, n), '[')
	for i, h := range hs {
		if i > 0 {
			b = append(b, ',')
		}
		text := utf8.ValidString(h.Key) && strings.IndexByte(h.Key, 0) < 0
		b = append(b, '[')
		if text {
			b = appendName(b, h.Key)
		} else {
			b = append(b, `""`...)
		}
		b = append(b, ',')
		if h.Value == nil {
			b = append(b, "null"...)
		} else {
			b = appendBase64(b, h.Value)
		}
		if !text {
			b = appendBase64(append(b, ','), []byte(h.Key))
		}
		b = append(b, ']')
	}
	return append(b, ']')
}

func appendBase64(b, value []byte) []byte {
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, value)
	return append(b, '"')
}

// appendName adds a JSON string; most names need no escape.
func appendName(b []byte, name string) []byte {
	for i := range len(name) {
		if c := name[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(name)
			if err != nil {
				return append(b, `""`...) // strings always marshal
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"')
}

// DecodeHeaders reads what the index keeps of a record's headers.
func DecodeHeaders(b []byte) ([]kgo.RecordHeader, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if hs, ok := plainHeaders(b); ok {
		return hs, nil
	}
	var list [][]json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, err
	}
	hs := make([]kgo.RecordHeader, len(list))
	for i, e := range list {
		if len(e) < 2 || len(e) > 3 {
			return nil, errors.New("dlq: headers: want pairs")
		}
		if err := json.Unmarshal(e[0], &hs[i].Key); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(e[1], &hs[i].Value); err != nil {
			return nil, err
		}
		if len(e) == 3 {
			var name []byte
			if err := json.Unmarshal(e[2], &name); err != nil {
				return nil, err
			}
			hs[i].Key = string(name)
		}
	}
	return hs, nil
}

// plainHeaders reads pairs of a name without escapes and a value, which nearly all
// headers are, in a tenth of the time that encoding/json takes. ok is false for
// everything else, also where it is no JSON.
func plainHeaders(b []byte) (hs []kgo.RecordHeader, ok bool) {
	values := make([]byte, 0, base64.StdEncoding.DecodedLen(len(b)))
	take := func(c byte) bool {
		b = bytes.TrimLeft(b, " ")
		if len(b) == 0 || b[0] != c {
			return false
		}
		b = b[1:]
		return true
	}
	text := func() ([]byte, bool) {
		if !take('"') {
			return nil, false
		}
		n := bytes.IndexByte(b, '"')
		if n < 0 {
			return nil, false
		}
		for _, c := range b[:n] {
			if c < ' ' || c > '~' || c == '\\' {
				return nil, false
			}
		}
		s := b[:n]
		b = b[n+1:]
		return s, true
	}
	if !take('[') {
		return nil, false
	}
	for {
		if !take('[') {
			return nil, false
		}
		name, ok := text()
		if !ok || !take(',') {
			return nil, false
		}
		value, ok := text()
		if !ok || !take(']') {
			return nil, false
		}
		from := len(values)
		var err error
		if values, err = base64.StdEncoding.AppendDecode(values, value); err != nil {
			return nil, false
		}
		hs = append(hs, kgo.RecordHeader{Key: string(name), Value: values[from:len(values):len(values)]})
		if take(']') {
			return hs, len(bytes.TrimLeft(b, " ")) == 0
		}
		if !take(',') {
			return nil, false
		}
	}
}

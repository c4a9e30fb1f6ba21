package enqueuefile

// The idempotency key of a line.

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"

	"github.com/cespare/xxhash/v2"
)

var keyName = []byte(`"idempotency_key"`)

// keyer gives lines their keys.
type keyer struct {
	batch string
	seen  map[uint64]uint32 // by hash of the text: how often
	buf   []byte
}

func newKeyer(batch string) *keyer {
	return &keyer{batch: batch, seen: map[uint64]uint32{}}
}

// key is the same for the same occurrence of a text in a batch. Texts that
// share a 64-bit hash share a count; the key itself is made from the whole
// text by SHA-256, so two texts never share a key.
func (k *keyer) key(text []byte) string {
	h := xxhash.Sum64(text)
	n := k.seen[h]
	k.seen[h] = n + 1
	k.buf = append(k.buf[:0], k.batch...)
	k.buf = append(k.buf, 0)
	k.buf = binary.BigEndian.AppendUint32(k.buf, n)
	k.buf = append(k.buf, text...)
	sum := sha256.Sum256(k.buf)
	return "file-" + base64.RawURLEncoding.EncodeToString(sum[:18])
}

// keyed appends text to dst with a key put in, unless it has one. Text that is
// not a JSON object is appended as it is: the API says what is wrong with it.
func (k *keyer) keyed(dst, text []byte) []byte {
	text = bytes.TrimSpace(text)
	if bytes.Contains(text, keyName) {
		var fields map[string]json.RawMessage
		if json.Unmarshal(text, &fields) != nil {
			return append(dst, text...)
		}
		if own, ok := fields["idempotency_key"]; ok {
			if s := string(own); s != "null" && s != `""` {
				return append(dst, text...)
			}
			fields["idempotency_key"] = []byte(`"` + k.key(text) + `"`)
			b, err := json.Marshal(fields)
			if err != nil {
				return append(dst, text...)
			}
			return append(dst, b...)
		}
	}
	if len(text) == 0 || text[0] != '{' {
		return append(dst, text...)
	}
	dst = append(dst, `{"idempotency_key":"`...)
	dst = append(dst, k.key(text)...)
	dst = append(dst, '"')
	rest := bytes.TrimLeft(text[1:], " \t")
	if len(rest) > 0 && rest[0] != '}' {
		dst = append(dst, ',')
	}
	return append(dst, rest...)
}

package run

// Payloads: JSON of an exact size that says which task it is.

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
)

// A payload is {"n":"0000000042","d":"…"}: n is the task's number.
const (
	payloadHead = `{"n":"`
	payloadMid  = `","d":"`
	payloadTail = `"}`
	digits      = 10
	minPayload  = len(payloadHead) + digits + len(payloadMid) + len(payloadTail)
)

// noise is how much there is before it comes again: more than any compressor's
// window, so that random payloads do not resemble each other.
const noise = 16 << 20

const words = "the payment was disputed by its holder and the bank has asked for evidence within thirty days "

// Payloads makes the payloads of a run. It may be used by many goroutines.
type Payloads struct {
	size   int
	filler []byte // longer than noise by size
}

// NewPayloads returns payloads of size bytes, Random or Text.
func NewPayloads(size int, entropy string) *Payloads {
	p := &Payloads{size: size}
	if entropy == Text {
		p.filler = bytes.Repeat([]byte(words), size/len(words)+2)
		return p
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"
	p.filler = make([]byte, noise+size)
	rnd := rand.NewPCG(1, 2) // the same in every run
	for i := 0; i < len(p.filler); {
		for v := rnd.Uint64(); v > 15 && i < len(p.filler); v >>= 6 {
			p.filler[i] = alphabet[v&63]
			i++
		}
	}
	return p
}

// Append appends the payload of task n.
func (p *Payloads) Append(b []byte, n int) []byte {
	pad := p.size - minPayload
	b = append(b, payloadHead...)
	at := len(b)
	b = append(b, "0000000000"...)
	for i, v := at+digits-1, n; v > 0 && i >= at; i, v = i-1, v/10 {
		b[i] = byte('0' + v%10)
	}
	b = append(b, payloadMid...)
	b = append(b, p.Filler(n)[:pad]...)
	return append(b, payloadTail...)
}

// Filler is what follows the number in the payload of task n: of at least the
// length needed.
func (p *Payloads) Filler(n int) []byte {
	span := len(p.filler) - p.size
	return p.filler[(n*p.size)%span:][:p.size-minPayload]
}

// number reads the task's number from a payload.
func number(payload []byte) (int, error) {
	if len(payload) < minPayload || !bytes.HasPrefix(payload, []byte(payloadHead)) {
		return 0, fmt.Errorf("a payload of %d bytes is not the load test's", len(payload))
	}
	return strconv.Atoi(string(payload[len(payloadHead) : len(payloadHead)+digits]))
}

// Command generate writes disputes.ndjson: the same bytes at every run.
//
// Most lines are good. Some are malformed in the ways that files from partners
// are: cut off, wrong types, missing fields, a byte that is no UTF-8. Some are
// poison: they fit the schema and make the handler panic (no evidence at all).
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

const (
	lines       = 2400
	badEvery    = 97  // malformed
	poisonEvery = 311 // panics in the handler
)

func main() {
	if err := write(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func write(to io.Writer) error {
	w := bufio.NewWriter(to)
	r := rand.New(rand.NewPCG(7, 2026))
	for n := 1; n <= lines; n++ {
		line := dispute(r, n, n%poisonEvery == 0)
		if n%badEvery == 0 {
			line = spoil(line, n/badEvery)
		}
		if _, err := w.WriteString(line + "\n"); err != nil {
			return err
		}
	}
	return w.Flush()
}

var (
	currencies = []string{"EUR", "USD", "GBP", "PLN", "SEK"}
	reasons    = []string{"fraudulent", "duplicate", "not_received", "not_as_described", "cancelled"}
	names      = []string{"Ada Nowak", "Björn Åkesson", "Chloé Dubois", "Dmitri Ivanov", "Eve O'Hara", "Fatma Yılmaz", "Gözde \\\"Gigi\\\" Kaya", "李 华", "Hank \\u0026 Sons"}
	evidence   = []string{"receipt", "bank statement", "e-mail of 3 May", "delivery photo", "chat log", "police report"}
)

func dispute(r *rand.Rand, n int, poison bool) string {
	proof := make([]string, 1+r.IntN(3))
	for i := range proof {
		proof[i] = `"` + evidence[r.IntN(len(evidence))] + `"`
	}
	if poison {
		proof = nil
	}
	opened := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, r.IntN(300)).Format(time.DateOnly)
	return fmt.Sprintf(`{"dispute_id":"dp_%06d","charge_id":"ch_%010x","amount_cents":%d,"currency":"%s","reason":"%s","customer":"%s","opened":"%s","evidence":[%s]}`,
		n, r.Uint64()>>24, 100+r.IntN(50000), currencies[r.IntN(len(currencies))], reasons[r.IntN(len(reasons))],
		names[r.IntN(len(names))], opened, strings.Join(proof, ","))
}

// spoil breaks a good line in one of eight ways, in turn.
func spoil(line string, k int) string {
	switch k % 8 {
	case 0: // cut off, as by a full disk
		return line[:len(line)*2/3]
	case 1: // an amount in euros, as text
		return strings.Replace(line, `"amount_cents":`, `"amount_cents":"12.50","was":`, 1)
	case 2: // a missing field
		return strings.Replace(line, `"charge_id"`, `"charge"`, 1)
	case 3: // Latin-1 in a UTF-8 file
		return strings.Replace(line, `"customer":"`, "\"customer\":\"Jos\xe9 ", 1)
	case 4: // nothing to give back
		return strings.Replace(line, `"amount_cents":`, `"amount_cents":-`, 1)
	case 5: // a CSV line that strayed in
		return "dp_999999;ch_1;4200;EUR;fraudulent"
	case 6: // an unknown currency
		return strings.NewReplacer(`"EUR"`, `"XXX"`, `"USD"`, `"XXX"`, `"GBP"`, `"XXX"`, `"PLN"`, `"XXX"`, `"SEK"`, `"XXX"`).Replace(line)
	default: // not an object
		return "[" + line + "]"
	}
}

package claims

// Run numbers inside Redis. A script's numbers are float64 and would lose the
// low bits of a run from epoch 32 on, so scripts see its three parts,
// "<epoch>.<incarnation>.<n>", and never the int64.

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/perdure/perdure/schemas"
)

const (
	maxEpoch       = 1<<(63-schemas.RunEpochShift) - 1
	maxIncarnation = 1<<(schemas.RunEpochShift-schemas.RunIncarnationShift) - 1
	maxN           = 1<<schemas.RunIncarnationShift - 1
)

func appendRun(b []byte, run int64) []byte {
	b = strconv.AppendInt(b, run>>schemas.RunEpochShift, 10)
	b = append(b, '.')
	b = strconv.AppendInt(b, run>>schemas.RunIncarnationShift&maxIncarnation, 10)
	b = append(b, '.')
	return strconv.AppendInt(b, run&maxN, 10)
}

// runParts is "" for no run.
func runParts(run int64) string {
	if run <= 0 {
		return ""
	}
	return string(appendRun(make([]byte, 0, 24), run))
}

func parseRun(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	e, rest, ok1 := strings.Cut(s, ".")
	i, n, ok2 := strings.Cut(rest, ".")
	ne, err1 := strconv.ParseInt(e, 10, 64)
	ni, err2 := strconv.ParseInt(i, 10, 64)
	nn, err3 := strconv.ParseInt(n, 10, 64)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil ||
		ne < 0 || ne > maxEpoch || ni < 0 || ni > maxIncarnation || nn < 0 || nn > maxN {
		return 0, fmt.Errorf("claims: run %q is not <epoch>.<incarnation>.<n>", s)
	}
	return schemas.FirstRun(int(ne), ni) + nn, nil
}

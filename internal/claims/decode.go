package claims

// Reading what the scripts and the hashes say.

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// replies checks that a script answered once for each of n tasks.
func replies(res any, n int) ([]any, error) {
	list, ok := res.([]any)
	if !ok || len(list) != n {
		return nil, fmt.Errorf("claims: asked Redis about %d tasks, answer is %T of %d", n, res, len(list))
	}
	return list, nil
}

func number(v any) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case string:
		i, _ := strconv.ParseInt(n, 10, 64) // not a number: 0, which no verdict is
		return i
	}
	return 0
}

// readClaim reads a claim from alternating fields and values. No field: None.
func readClaim(fields []any) (Claim, error) {
	var c Claim
	var err error
	for i := 0; i+1 < len(fields) && err == nil; i += 2 {
		name, _ := fields[i].(string)
		value, ok := fields[i+1].(string)
		if !ok {
			return c, fmt.Errorf("claims: field %s of a claim is %T", name, fields[i+1])
		}
		err = c.set(name, value)
	}
	return c, err
}

func (c *Claim) set(name, value string) (err error) {
	switch name {
	case "s":
		switch State(value) {
		case Running, Waiting, Dead, Cancelled:
			c.State = State(value)
		case "N":
			c.State = None
		case "X":
			c.State = Done
		default:
			return fmt.Errorf("claims: unknown state %q", value)
		}
	case "e":
		c.Epoch, err = strconv.Atoi(value)
	case "a":
		c.Attempt, err = strconv.Atoi(value)
	case "r":
		c.Run, err = parseRun(value)
	case "o":
		c.Owner = value
	case "c":
		c.Coord, err = parseCoord(value)
	case "n":
		c.Crashes, err = strconv.Atoi(value)
	case "m":
		c.Own, err = strconv.Atoi(value)
	case "d":
		var at int64
		at, err = strconv.ParseInt(value, 10, 64)
		c.Due = time.UnixMilli(at)
	case "h":
		c.History = []byte(value)
	case "x":
		c.Cancel = true
	case "y":
		c.Reason = value
	case "l":
		c.AtRecord = true
	case "w":
		c.Elsewhere, err = milliseconds(value)
	case "left":
		c.Left, err = milliseconds(value)
	case "f":
		c.Report = []byte(value)
	}
	return err
}

func milliseconds(text string) (time.Duration, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	return time.Duration(n) * time.Millisecond, err
}

func parseCoord(s string) (Coord, error) {
	j := strings.LastIndexByte(s, '/')
	i := strings.LastIndexByte(s[:max(j, 0)], '/')
	if i < 0 {
		return Coord{}, fmt.Errorf("claims: coordinate %q is not <topic>/<partition>/<offset>", s)
	}
	p, err1 := strconv.ParseInt(s[i+1:j], 10, 32)
	o, err2 := strconv.ParseInt(s[j+1:], 10, 64)
	if err1 != nil || err2 != nil {
		return Coord{}, fmt.Errorf("claims: coordinate %q is not <topic>/<partition>/<offset>", s)
	}
	return Coord{Topic: s[:i], Partition: int32(p), Offset: o}, nil
}

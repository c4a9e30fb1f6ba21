package schemas

// Rates, wherever a file says one.

import (
	"errors"
	"regexp"
	"strconv"
)

// ratePattern: 200/s, 0.5/m.
var ratePattern = regexp.MustCompile(`^([0-9]{1,9}(?:\.[0-9]{1,9})?)/(s|m|h)$`)

// ParseRate reads 200/s, 90/m or 0.5/h; the result is a second's worth. The
// error does not repeat the text.
func ParseRate(text string) (perSecond float64, err error) {
	m := ratePattern.FindStringSubmatch(text)
	if m == nil {
		return 0, errors.New("must be a rate such as 200/s, 90/m or 10/h")
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil || n <= 0 {
		return 0, errors.New("must be more than zero")
	}
	return n / map[string]float64{"s": 1, "m": 60, "h": 3600}[m[2]], nil
}

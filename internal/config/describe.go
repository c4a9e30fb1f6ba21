package config

// What `perdure config` prints, and warnings about names that nobody reads.

import (
	"fmt"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
)

// masked stands for a secret.
const masked = "********"

// Variable is one line of `perdure config`.
type Variable struct {
	Name    string `json:"name"`
	Value   string `json:"value"` // secrets masked
	Default string `json:"default"`
	Origin  Origin `json:"origin"`
	Meaning string `json:"meaning"`
}

// Describe lists every variable with its value, default and meaning. Secrets,
// and passwords inside addresses, are masked.
func (c Config) Describe() []Variable {
	var list []Variable
	for _, v := range c.variables() {
		origin := c.origin[v.name]
		if origin == "" {
			origin = FromDefault
		}
		value := format(v.field)
		switch {
		case value == "":
		case v.secret == "value":
			value = masked
		case v.secret == "url":
			value = MaskURL(value)
		}
		list = append(list, Variable{v.name, value, v.byHand, origin, v.meaning})
	}
	return list
}

func format(f reflect.Value) string {
	switch x := f.Interface().(type) {
	case []string:
		return strings.Join(x, ",")
	case time.Duration:
		return x.String()
	default:
		return fmt.Sprint(x)
	}
}

// MaskURL hides the password of an address, wherever it stands in it: between
// user and host, in the query, or in the key=value form.
func MaskURL(s string) string {
	if u, err := url.Parse(s); err == nil && u.Scheme != "" {
		if _, has := u.User.Password(); has {
			u.User = url.UserPassword(u.User.Username(), masked)
		}
		q := u.Query()
		for _, name := range []string{"password", "sslpassword"} {
			if q.Has(name) {
				q.Set(name, masked)
			}
		}
		u.RawQuery = q.Encode()
		return strings.ReplaceAll(u.String(), url.QueryEscape(masked), masked)
	}
	if strings.Contains(s, "password") {
		return masked
	}
	return s
}

// Unknown returns a warning for each PERDURE_ variable that nothing reads, with
// the nearest name that exists.
func Unknown() []string {
	var c Config
	known := []string{}
	for _, v := range c.variables() {
		known = append(known, v.name)
		if v.secret != "" {
			known = append(known, v.name+"_FILE")
		}
	}
	var warnings []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "PERDURE_") || strings.HasPrefix(name, "PERDURE_TEST_") || slices.Contains(known, name) {
			continue
		}
		warning := fmt.Sprintf("%s is not a variable of perdure", name)
		if near := nearest(name, known); near != "" {
			warning += fmt.Sprintf(": did you mean %s?", near)
		}
		warnings = append(warnings, warning)
	}
	slices.Sort(warnings)
	return warnings
}

// nearest is the known name at an edit distance of at most 3, "" if none is.
func nearest(name string, known []string) string {
	best, at := 4, ""
	for _, k := range known {
		if d := distance(name, k); d < best {
			best, at = d, k
		}
	}
	return at
}

// distance is Levenshtein's, by one row.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

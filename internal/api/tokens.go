package api

// The token file (PERDURE_API_TOKENS_FILE). YAML:
//
//	tokens:
//	  - name: billing                  # who, in the audit; scope of idempotency keys
//	    sha256: 5e884898da28047151…    # printf %s "$TOKEN" | sha256sum
//	    verbs: [enqueue, read-meta]
//	    rate: 200/s                    # tasks, in each process; also 90/m, 10/h
//	    burst: 400                     # of them at once; default a second's worth
//	    quota: 5000000                 # tasks a UTC day, in all processes together
//	    streams: 4                     # NDJSON posts at once, in each process; default 16
//	  - name: oncall
//	    token: a-long-random-string    # or the token itself; then chmod 600
//	    verbs: [read-meta, read-payload, replay, kill]
//
// Without rate or quota there is no such limit. Two entries may share a name, so
// that a token can be rotated: they share the limits too, and must say the same.
// Nobody but the owner may be able to write the file; one that holds a token itself may not be
// readable by others either. It is read once, at start.

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
)

// minToken is the least length of a token given in clear, in bytes.
const minToken = 16

var tokenName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// Tokens are the principals of a token file. nil means that no tokens are
// configured: everybody who reaches the listener may do everything, so it must
// be loopback (CheckListenAddr).
type Tokens struct {
	entries []tokenEntry
}

type tokenEntry struct {
	hash [sha256.Size]byte
	who  *principal
}

// LoadTokens reads the token file at path. path "" gives nil Tokens.
func LoadTokens(path string) (*Tokens, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("API_TOKENS_FILE: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("API_TOKENS_FILE: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("API_TOKENS_FILE: %s can be written by others than its owner (mode %04o): chmod go-w %s", path, info.Mode().Perm(), path)
	}
	var file struct {
		Tokens []struct {
			Name   string     `yaml:"name"`
			SHA256 string     `yaml:"sha256"`
			Token  string     `yaml:"token"`
			Verbs  []Verb     `yaml:"verbs"`
			Limits limitsText `yaml:",inline"`
		} `yaml:"tokens"`
	}
	// Without the source excerpt: it could show a token.
	unread := func(err error) error {
		return fmt.Errorf("API_TOKENS_FILE: %s: %s", path, yaml.FormatError(err, false, false))
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("API_TOKENS_FILE: %w", err)
	}
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, unread(err)
	}
	if err := yaml.NewDecoder(bytes.NewReader(text), yaml.DisallowUnknownField()).Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, unread(err)
	}
	if len(file.Tokens) == 0 {
		return nil, fmt.Errorf("API_TOKENS_FILE: %s has no tokens: nobody could call the API", path)
	}
	t := &Tokens{}
	for i, e := range file.Tokens {
		at := fmt.Sprintf("API_TOKENS_FILE: %s: tokens[%d] (%s)", path, i, e.Name)
		if !tokenName.MatchString(e.Name) || e.Name == Local {
			return nil, fmt.Errorf("%s: name must be 1 to 64 of [A-Za-z0-9._@-] and not %q", at, Local)
		}
		if len(e.Verbs) == 0 {
			return nil, fmt.Errorf("%s: has no verbs; there are %v", at, verbs)
		}
		for _, v := range e.Verbs {
			if !slices.Contains(verbs, v) {
				return nil, fmt.Errorf("%s: unknown verb %q; there are %v", at, v, verbs)
			}
		}
		if e.Token != "" && info.Mode().Perm()&0o004 != 0 {
			return nil, fmt.Errorf("%s: holds the token itself in a file that everybody may read (mode %04o): chmod 600 %s, or give its sha256", at, info.Mode().Perm(), path)
		}
		hash, err := tokenHash(e.Token, e.SHA256)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		if t.find(hash) != nil {
			return nil, fmt.Errorf("%s: the same token stands above", at)
		}
		limits, bad := e.Limits.limits(e.Verbs)
		if bad != nil {
			return nil, fmt.Errorf("%s: line %d: %w", at, lineOf(tree, i, bad.field), bad)
		}
		who := &principal{name: e.Name, verbs: e.Verbs, limits: limits}
		if err := t.one(who); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", at, lineOf(tree, i, "name"), err)
		}
		t.entries = append(t.entries, tokenEntry{hash: hash, who: who})
	}
	return t, nil
}

func tokenHash(token, hexHash string) (hash [sha256.Size]byte, err error) {
	switch {
	case (token == "") == (hexHash == ""):
		return hash, errors.New("give either token or sha256")
	case token != "":
		if len(token) < minToken {
			return hash, fmt.Errorf("token is shorter than %d bytes", minToken)
		}
		return sha256.Sum256([]byte(token)), nil
	}
	b, err := hex.DecodeString(hexHash)
	if err != nil || len(b) != sha256.Size {
		return hash, errors.New("sha256 must be 64 hexadecimal digits")
	}
	return [sha256.Size]byte(b), nil
}

// find looks at every entry, whatever it finds, so that its time says nothing
// about the tokens.
func (t *Tokens) find(hash [sha256.Size]byte) *principal {
	var who *principal
	for i := range t.entries {
		if subtle.ConstantTimeCompare(t.entries[i].hash[:], hash[:]) == 1 {
			who = t.entries[i].who
		}
	}
	return who
}

func (t *Tokens) authenticate(token string) *principal {
	return t.find(sha256.Sum256([]byte(token)))
}

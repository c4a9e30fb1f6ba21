package config

// perdure.env: how a running `perdure up` tells every other command where its
// servers are. Lines of NAME=value, quoted for a shell where they need it.

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// envFileName stands in DATA_DIR.
const envFileName = "perdure.env"

// EnvFile is the path of perdure.env in a data directory.
func EnvFile(dataDir string) string { return filepath.Join(dataDir, envFileName) }

// EnvLine is one variable of perdure.env, with its full name.
type EnvLine struct{ Name, Value string }

// mergeEnvFile fills in what the environment leaves open. A missing file is
// no error; an unreadable or broken one is.
func (c *Config) mergeEnvFile(vars []variable) error {
	lines, err := ReadEnvFile(EnvFile(c.DataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	byName := make(map[string]variable, len(vars))
	for _, v := range vars {
		byName[v.name] = v
	}
	for _, l := range lines {
		v, known := byName[l.Name]
		if !known || c.origin[l.Name] != FromDefault {
			continue
		}
		if err := v.set(l.Value); err != nil {
			return fmt.Errorf("%s: %w", EnvFile(c.DataDir), err)
		}
		c.origin[l.Name] = FromEnvFile
	}
	return nil
}

// ReadEnvFile reads a perdure.env. The error wraps fs.ErrNotExist if there is none.
func ReadEnvFile(path string) ([]EnvLine, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read perdure.env: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	var lines []EnvLine
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		text := strings.TrimSpace(sc.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(text, "export "), "=")
		if !ok {
			return nil, fmt.Errorf("%s:%d: not NAME=value", path, n)
		}
		lines = append(lines, EnvLine{name, unquote(value)})
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return lines, nil
}

// WriteEnvFile puts perdure.env in place at once, readable by its owner only:
// it holds the embedded Postgres's password.
func WriteEnvFile(path string, lines []EnvLine) error {
	var b strings.Builder
	b.WriteString("# Written by `perdure up`; gone when it stops. Use: set -a; . <this file>\n")
	for _, l := range lines {
		if strings.ContainsAny(l.Value, "\r\n\x00") {
			return fmt.Errorf("write %s: value of %s has a line break", path, l.Name)
		}
		b.WriteString(l.Name + "=" + quote(l.Value) + "\n")
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".perdure.env-*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.WriteString(b.String())
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// quote makes a value safe for a POSIX shell; plain ones stay as they are.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:,@%+=", r)
	}
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '\'' && s[len(s)-1] == '\'' {
		return strings.ReplaceAll(s[1:len(s)-1], `'\''`, "'")
	}
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// ForOthers is what another process on this host needs to know to work with
// the servers that c names: everything that is not a process's own.
func (c Config) ForOthers() []EnvLine {
	own := []string{"PERDURE_HTTP_ADDR", "PERDURE_DATA_DIR", "PERDURE_INSTANCE", "PERDURE_RELEASE", "PERDURE_CONCURRENCY",
		"PERDURE_LOG_FORMAT", "PERDURE_LOG_LEVEL", "PERDURE_API_TOKENS_FILE", "PERDURE_API_TOKEN"}
	var lines []EnvLine
	for _, v := range c.variables() {
		value := format(v.field)
		if value == "" || value == "false" || slices.Contains(own, v.name) {
			continue
		}
		lines = append(lines, EnvLine{v.name, value})
	}
	return lines
}

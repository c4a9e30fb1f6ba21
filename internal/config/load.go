package config

// Reading the environment: variables, NAME_FILE for secrets, perdure.env.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
)

// Origin says where a variable's value came from.
type Origin string

// The origins of a value, the strongest first.
const (
	FromEnvironment Origin = "environment"
	FromSecretFile  Origin = "secret file" // NAME_FILE
	FromEnvFile     Origin = "perdure.env"
	FromDefault     Origin = "default"
)

// servers are the variables of which none may be set for perdure.env to be read.
var servers = [...]string{"PERDURE_POSTGRES_URL", "PERDURE_REDIS_ADDRS", "PERDURE_KAFKA_BROKERS"}

// Load reads the environment and, where it names no server, the perdure.env
// that a running `perdure up` left in DATA_DIR. The Config is validated; the
// error joins everything that is wrong and names each variable.
func Load() (Config, error) { return load(true) }

// LoadEnvironment is Load without perdure.env: what `perdure up` itself reads,
// so that it does not take the servers of its own last run for real ones.
func LoadEnvironment() (Config, error) { return load(false) }

func load(useEnvFile bool) (Config, error) {
	var c Config
	if err := envconfig.Process("", &c); err != nil {
		return Config{}, explainParse(err)
	}
	vars := c.variables()
	c.origin = make(map[string]Origin, len(vars))
	var errs []error
	for _, v := range vars {
		c.origin[v.name] = FromDefault
		if os.Getenv(v.name) != "" {
			c.origin[v.name] = FromEnvironment
		}
		if v.secret != "" {
			if err := c.readSecretFile(v); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if err := c.defaultDataDir(); err != nil {
		errs = append(errs, err)
	}
	if useEnvFile && !c.namesAServer() && c.DataDir != "" {
		if err := c.mergeEnvFile(vars); err != nil {
			errs = append(errs, err)
		}
	}
	c.trimLists()
	if err := errors.Join(append(errs, c.validate()...)...); err != nil {
		return Config{}, err
	}
	return c, nil
}

// namesAServer reports whether any of the three servers was given by hand.
func (c *Config) namesAServer() bool {
	for _, name := range servers {
		if o := c.origin[name]; o == FromEnvironment || o == FromSecretFile {
			return true
		}
	}
	return false
}

// readSecretFile takes a secret from the file that NAME_FILE names.
func (c *Config) readSecretFile(v variable) error {
	path := os.Getenv(v.name + "_FILE")
	if path == "" {
		return nil
	}
	if os.Getenv(v.name) != "" {
		return fmt.Errorf("%s and %s_FILE are both set: unset one", v.name, v.name)
	}
	secret, err := readSecret(v.name, path)
	if err != nil {
		return err
	}
	if c.files == nil {
		c.files = map[string]string{}
	}
	c.origin[v.name], c.files[v.name] = FromSecretFile, path
	return v.set(secret)
}

func readSecret(name, path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	secret := strings.TrimRight(string(b), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("%s_FILE: %s is empty", name, path)
	}
	return secret, nil
}

// KafkaSASLSecret returns the password or token as it is now: one that came from
// PERDURE_KAFKA_SASL_PASSWORD_FILE is read again, because tokens expire and
// whoever renews them writes that file. It may be called concurrently.
func (c *Config) KafkaSASLSecret() (string, error) {
	const name = "PERDURE_KAFKA_SASL_PASSWORD"
	if path := c.files[name]; path != "" {
		return readSecret(name, path)
	}
	return c.KafkaSASLPassword, nil
}

// defaultDataDir fills in DATA_DIR. Without a home directory it stays empty:
// a container that has all its servers and its name needs none.
func (c *Config) defaultDataDir() error {
	if c.DataDir != "" {
		abs, err := filepath.Abs(c.DataDir)
		if err != nil {
			return fmt.Errorf("PERDURE_DATA_DIR: %w", err)
		}
		c.DataDir = abs
		return nil
	}
	// A relative XDG_DATA_HOME is to be ignored, says its specification.
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		c.DataDir = filepath.Join(dir, "perdure")
		return nil
	}
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) {
		c.DataDir = filepath.Join(home, ".local", "share", "perdure")
	}
	return nil
}

// trimLists forgives spaces after commas and drops empty elements.
func (c *Config) trimLists() {
	for _, list := range []*[]string{&c.RedisAddrs, &c.KafkaBrokers} {
		kept := (*list)[:0]
		for _, s := range *list {
			if s = strings.TrimSpace(s); s != "" {
				kept = append(kept, s)
			}
		}
		*list = kept
	}
}

// variable is one field of a Config with its tags.
type variable struct {
	name    string // PERDURE_…
	byHand  string // default
	meaning string
	secret  string // "", value or url
	field   reflect.Value
}

// variables lists c's fields in the order of the struct; set writes through to c.
func (c *Config) variables() []variable {
	v := reflect.ValueOf(c).Elem()
	vars := make([]variable, 0, v.NumField())
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name := tag.Get("envconfig")
		if name == "" {
			continue
		}
		vars = append(vars, variable{name, tag.Get("default"), tag.Get("desc"), tag.Get("secret"), v.Field(i)})
	}
	return vars
}

// set parses a value from a file as envconfig would from the environment.
func (v variable) set(s string) error {
	switch f := v.field.Addr().Interface().(type) {
	case *string:
		*f = s
	case *[]string:
		*f = strings.Split(s, ",")
	case *bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%s: %q is not true or false", v.name, s)
		}
		*f = b
	case *int64:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %q is not a whole number", v.name, s)
		}
		*f = n
	case *time.Duration:
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%s: %q is not a duration such as 168h or 30s", v.name, s)
		}
		*f = d
	default:
		return fmt.Errorf("%s: cannot be read from a file", v.name)
	}
	return nil
}

// explainParse says what a value should have looked like.
func explainParse(err error) error {
	var pe *envconfig.ParseError
	if !errors.As(err, &pe) {
		return fmt.Errorf("environment: %w", err)
	}
	want := pe.TypeName
	switch pe.TypeName {
	case "time.Duration":
		want = "a duration such as 168h or 30s"
	case "bool":
		want = "true or false"
	case "int64":
		want = "a whole number"
	}
	return fmt.Errorf("%s: %q is not %s", pe.KeyName, pe.Value, want)
}

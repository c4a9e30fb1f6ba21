package config

// TLS to servers: the settings, and what its errors mean in terms of them.

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// KafkaTLSConfig is the TLS that PERDURE_KAFKA_TLS* describe, nil without TLS.
func (c *Config) KafkaTLSConfig() (*tls.Config, error) {
	return tlsConfig(kafkaTLS, c.KafkaTLS, c.KafkaTLSCAFile, c.KafkaTLSCertFile, c.KafkaTLSKeyFile)
}

// RedisTLSConfig is the TLS that PERDURE_REDIS_TLS* describe, nil without TLS.
func (c *Config) RedisTLSConfig() (*tls.Config, error) {
	return tlsConfig(redisTLS, c.RedisTLS, c.RedisTLSCAFile, c.RedisTLSCertFile, c.RedisTLSKeyFile)
}

// What the variables of a server's TLS begin with.
const (
	kafkaTLS = "PERDURE_KAFKA_TLS"
	redisTLS = "PERDURE_REDIS_TLS"
)

func tlsConfig(name string, on bool, ca, cert, key string) (*tls.Config, error) {
	if !on {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("%s_CA_FILE: %w", name, err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s_CA_FILE: %s holds no certificate in PEM", name, ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, fmt.Errorf("set both %[1]s_CERT_FILE and %[1]s_KEY_FILE, or none", name)
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%[1]s_CERT_FILE and %[1]s_KEY_FILE: %[2]w", name, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// validateTLS checks the files of one server's TLS.
func validateTLS(name string, on bool, ca, cert, key string) []error {
	var errs []error
	for _, f := range []struct{ suffix, path string }{{"_CA_FILE", ca}, {"_CERT_FILE", cert}, {"_KEY_FILE", key}} {
		if f.path == "" {
			continue
		}
		if _, err := os.Stat(f.path); err != nil {
			errs = append(errs, fmt.Errorf("%s%s: %w", name, f.suffix, err))
		}
		if !on {
			errs = append(errs, fmt.Errorf("%[1]s%[2]s is set but %[1]s is not true: the connection would not be encrypted", name, f.suffix))
		}
	}
	if (cert == "") != (key == "") {
		errs = append(errs, fmt.Errorf("%[1]s_CERT_FILE and %[1]s_KEY_FILE: set both or none", name))
	}
	return errs
}

// SetupError is a server's refusal that waiting does not heal: a wrong password,
// another authority's certificate.
type SetupError struct {
	Remedy string // what to do, with the variable's name
	Err    error
}

// Error is the cause and the remedy.
func (e *SetupError) Error() string { return e.Err.Error() + " (" + e.Remedy + ")" }

// Unwrap returns the cause.
func (e *SetupError) Unwrap() error { return e.Err }

// KafkaTLSRemedy says which variable to mend for an error of a connection by
// TLS; "" for one that is about something else.
func (c *Config) KafkaTLSRemedy(err error) string {
	return tlsRemedy(err, kafkaTLS, c.KafkaTLSCAFile != "", c.KafkaTLSCertFile != "")
}

// RedisTLSRemedy is the same for Redis.
func (c *Config) RedisTLSRemedy(err error) string {
	return tlsRemedy(err, redisTLS, c.RedisTLSCAFile != "", c.RedisTLSCertFile != "")
}

func tlsRemedy(err error, name string, hasCA, hasCert bool) string {
	var unknown x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var invalid x509.CertificateInvalidError
	var inTheClear tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown) && hasCA:
		return name + "_CA_FILE is not the authority that signed the server's certificate"
	case errors.As(err, &unknown):
		return "this machine does not know the authority that signed the server's certificate: name its PEM file in " + name + "_CA_FILE"
	case errors.As(err, &wrongName):
		return "the server's certificate is for other names: connect by one of those, or issue it for this one"
	case errors.As(err, &invalid):
		return "the server's certificate is not valid (see the cause): renew it, or mend the clock"
	case errors.As(err, &inTheClear):
		return "the server does not speak TLS on this port: unset " + name + ", or use its TLS port"
	case refusedOurs(err):
		if hasCert {
			return "the server does not accept the client certificate in " + name + "_CERT_FILE"
		}
		return fmt.Sprintf("the server wants a client certificate: set %[1]s_CERT_FILE and %[1]s_KEY_FILE", name)
	}
	return ""
}

// refusedOurs reports whether the server sent a TLS alert about the client's
// certificate. Go's type for alerts of the other side is not exported.
func refusedOurs(err error) bool {
	_, alert, is := strings.Cut(err.Error(), "remote error: tls: ")
	return is && (strings.Contains(alert, "certificate") || strings.Contains(alert, "unknown"))
}

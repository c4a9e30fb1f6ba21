package kafka

// What a refused connection means in terms of our variables.

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/perdure/perdure/internal/config"
)

// Explain returns a *config.SetupError for what a broker or its certificate
// refused, with the variable to mend; any other error as it is, at most with a
// hint.
func Explain(c config.Config, err error) error {
	if err == nil {
		return nil
	}
	if remedy := remedy(c, err); remedy != "" {
		return &config.SetupError{Remedy: remedy, Err: err}
	}
	// A broker that goes down closes connections too: only a hint.
	var early *kgo.ErrFirstReadEOF
	if errors.As(err, &early) {
		switch {
		case !c.KafkaTLS:
			return fmt.Errorf("%w (does this port want TLS? Then set PERDURE_KAFKA_TLS=true)", err)
		case c.KafkaSASLMechanism == "":
			return fmt.Errorf("%w (does this port want SASL? Then set PERDURE_KAFKA_SASL_MECHANISM)", err)
		}
	}
	return err
}

// Ping asks the brokers themselves, not a cache; a refusal is explained.
func Ping(ctx context.Context, c config.Config, cl *kgo.Client) error {
	return Explain(c, cl.Ping(ctx))
}

func remedy(c config.Config, err error) string {
	var token *tokenRefusedError
	switch {
	case errors.As(err, &token):
		return "check the token in PERDURE_KAFKA_SASL_PASSWORD (or …_FILE): its issuer, audience, subject and expiry"
	case errors.Is(err, kerr.SaslAuthenticationFailed) && c.KafkaSASLMechanism == "OAUTHBEARER":
		return "check the token in PERDURE_KAFKA_SASL_PASSWORD (or …_FILE), and that PERDURE_KAFKA_SASL_USERNAME is empty or its subject"
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return "check PERDURE_KAFKA_SASL_USERNAME and PERDURE_KAFKA_SASL_PASSWORD (or …_FILE)"
	case errors.Is(err, kerr.UnsupportedSaslMechanism):
		return "the brokers do not offer this PERDURE_KAFKA_SASL_MECHANISM on this port"
	case errors.Is(err, kerr.IllegalSaslState):
		return "the brokers want no login, or another, on this port: check PERDURE_KAFKA_SASL_MECHANISM and the port in PERDURE_KAFKA_BROKERS"
	case !c.KafkaTLS && strings.Contains(err.Error(), "plaintext connection speaking to a tls endpoint"):
		return "this port wants TLS: set PERDURE_KAFKA_TLS=true"
	}
	return c.KafkaTLSRemedy(err)
}

// tokenRefusedError is a broker's answer to a token that it does not accept.
type tokenRefusedError struct{ answer string }

func (e *tokenRefusedError) Error() string {
	return fmt.Sprintf("the broker does not accept the OAUTHBEARER token: %.200q", e.answer)
}

// explainedToken is OAUTHBEARER whose refusal says what the broker said: the
// client's own drops it.
type explainedToken struct{ sasl.Mechanism }

// Authenticate implements sasl.Mechanism.
func (m explainedToken) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	s, first, err := m.Mechanism.Authenticate(ctx, host)
	return explainedSession{s}, first, err
}

type explainedSession struct{ sasl.Session }

// Challenge implements sasl.Session. RFC 7628, 3.2.2: what comes back is empty,
// or a refusal.
func (s explainedSession) Challenge(answer []byte) (bool, []byte, error) {
	if len(answer) > 0 {
		return false, nil, &tokenRefusedError{string(answer)}
	}
	return s.Session.Challenge(answer)
}

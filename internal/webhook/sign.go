package webhook

// Standard Webhooks 1.0: secrets and signatures.

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
)

// ParseSecret reads a Standard Webhooks secret: base64 with or without the
// prefix whsec_, 24 to 64 bytes.
func ParseSecret(s string) ([]byte, error) {
	if s == "" {
		return nil, errors.New("is not set")
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "whsec_"))
	if err != nil || len(b) < 24 || len(b) > 64 {
		return nil, errors.New("is not a Standard Webhooks secret: whsec_ and 24 to 64 bytes in base64")
	}
	return b, nil
}

// Sign returns the webhook-signature of a body, version v1.
func Sign(secret []byte, id, timestamp string, body []byte) string {
	m := hmac.New(sha256.New, secret)
	for _, s := range []string{id, ".", timestamp, "."} {
		m.Write([]byte(s))
	}
	m.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
}

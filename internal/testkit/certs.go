// Certificates for servers that want TLS, made for one test.

package testkit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certificates are PEM files: an authority, a server for 127.0.0.1 and
// localhost, and a client, both signed by it.
type Certificates struct {
	CA string

	ServerCert, ServerKey string
	ServerPair            string // key and certificate in one file, as Kafka reads them

	ClientCert, ClientKey string

	OtherCA string // an authority that signed none of them
}

// NewCertificates makes them in a directory of the test.
func NewCertificates(t testing.TB) Certificates {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, blocks ...*pem.Block) string {
		path := filepath.Join(dir, name)
		var text []byte
		for _, b := range blocks {
			text = append(text, pem.EncodeToMemory(b)...)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatalf("testkit: certificates: %v", err)
		}
		return path
	}
	ca, caKey := issue(t, "perdure test authority", nil, nil)
	other, _ := issue(t, "another authority", nil, nil)
	server, serverKey := issue(t, "perdure test server", ca, caKey)
	client, clientKey := issue(t, "perdure-test-client", ca, caKey)
	return Certificates{
		CA:         write("ca.pem", certPEM(ca)),
		ServerCert: write("server.pem", certPEM(server)),
		ServerKey:  write("server.key", keyPEM(t, serverKey)),
		ServerPair: write("server-pair.pem", keyPEM(t, serverKey), certPEM(server)),
		ClientCert: write("client.pem", certPEM(client)),
		ClientKey:  write("client.key", keyPEM(t, clientKey)),
		OtherCA:    write("other-ca.pem", certPEM(other)),
	}
}

// issue makes a key and its certificate: an authority's own where ca is nil.
func issue(t testing.TB, name string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("testkit: certificates: %v", err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatalf("testkit: certificates: %v", err)
	}
	c := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	if ca == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		ca, caKey = c, key
	} else {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		c.IPAddresses, c.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
	if err != nil {
		t.Fatalf("testkit: certificates: %v", err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("testkit: certificates: %v", err)
	}
	return made, key
}

func certPEM(c *x509.Certificate) *pem.Block { return &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw} }

func keyPEM(t testing.TB, key *ecdsa.PrivateKey) *pem.Block {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("testkit: certificates: %v", err)
	}
	return &pem.Block{Type: "PRIVATE KEY", Bytes: der}
}

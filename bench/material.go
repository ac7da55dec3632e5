package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// The names of the ends, and of the trust domain that both are in.
const (
	trustDomain = "bench.example"
	serverName  = "server"
	clientName  = "client"
	// guestName is a second client, which a change of the rules shuts out.
	guestName = "guest"
)

// makeMaterial writes a directory for each end: cert.pem (leaf and intermediate, P-256), key.pem, roots.pem, and
// all.pem for those who want one file. Every contender uses the same ones: the SPIFFE ID is joined by a DNS name, for those
// who verify that instead.
func makeMaterial(dir string) error {
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString(trustDomain))
	if err != nil {
		return err
	}
	for _, name := range []string{serverName, clientName, guestName} {
		svid, err := ca.SVID(name, func(c *x509.Certificate) {
			c.DNSNames = []string{name}
			c.NotAfter = time.Now().Add(24 * time.Hour)
		})
		if err != nil {
			return err
		}
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o700); err != nil {
			return err
		}
		cert, key, _, err := ca.Write(sub, svid)
		if err != nil {
			return err
		}
		var all []byte
		for _, f := range []string{cert, key} {
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			all = append(all, b...)
		}
		if err := os.WriteFile(filepath.Join(sub, "all.pem"), all, 0o600); err != nil { //nolint:gosec // a scratch directory of ours
			return err
		}
	}
	return nil
}

// material is what one end shows and trusts.
type material struct {
	svid   *x509svid.SVID
	bundle *x509bundle.Bundle
}

func loadMaterial(dir string) (material, error) {
	svid, err := x509svid.Load(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return material{}, err
	}
	bundle, err := x509bundle.Load(svid.ID.TrustDomain(), filepath.Join(dir, "roots.pem"))
	if err != nil {
		return material{}, err
	}
	return material{svid, bundle}, nil
}

func (m material) source() identity.Source { return identity.Static(m.svid, m.bundle) }

// tlsConfig is mutual TLS as crypto/tls has it: chains and host names verified, nothing tuned.
func (m material) tlsConfig(protocols ...string) *tls.Config {
	roots := x509.NewCertPool()
	for _, a := range m.bundle.X509Authorities() {
		roots.AddCert(a)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{testca.Certificate(m.svid)},
		MinVersion:   tls.VersionTLS13,
		RootCAs:      roots,
		ClientCAs:    roots,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ServerName:   serverName,
		NextProtos:   protocols,
	}
}

// checkTLS makes sure that a connection is what all contenders were to use.
func checkTLS(cs tls.ConnectionState) error {
	switch {
	case cs.Version != tls.VersionTLS13:
		return errors.New("not TLS 1.3")
	case cs.CipherSuite != tls.TLS_AES_128_GCM_SHA256:
		return fmt.Errorf("cipher suite %s", tls.CipherSuiteName(cs.CipherSuite))
	case cs.CurveID != tls.X25519MLKEM768:
		return fmt.Errorf("key exchange %s", cs.CurveID)
	case len(cs.PeerCertificates) == 0:
		return errors.New("no certificate")
	}
	return nil
}

package admin

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/intramesh/mesh/control/store"
)

// Authenticate finds out who calls by the certificate that the handshake has verified ([Authority.ServerTLS]), and refuses
// those that revoked reports; nil reports none.
func Authenticate(next http.Handler, revoked func(serial string) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := callerOf(r, revoked)
		if err != nil {
			http.Error(w, `{"error": "`+err.Error()+`"}`, http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r.WithContext(WithCaller(r.Context(), caller)))
	})
}

func callerOf(r *http.Request, revoked func(string) bool) (Caller, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return Caller{}, errors.New("this takes a client certificate")
	}
	cert := r.TLS.VerifiedChains[0][0]
	if time.Now().After(cert.NotAfter) { // since the handshake
		return Caller{}, errors.New("the client certificate has expired")
	}
	if revoked != nil && revoked(serialOf(cert)) {
		return Caller{}, errors.New("the client certificate is revoked")
	}
	if len(cert.Subject.OrganizationalUnit) != 1 {
		return Caller{}, errors.New("the client certificate names no role")
	}
	role, err := ParseRole(cert.Subject.OrganizationalUnit[0])
	if err != nil {
		return Caller{}, errors.New("the client certificate names no role")
	}
	return Caller{store.Actor{Name: cert.Subject.CommonName, From: r.RemoteAddr}, role}, nil
}

// Dial returns a client of the control plane at a URL, "https://mesh.example:7443", with the identity in a
// file as [Authority.Issue] returns it. It does not connect yet.
func Dial(server, identityFile string) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
		return nil, fmt.Errorf("admin: server %q is not of the form https://host:port", server)
	}
	conf, err := identityTLS(identityFile)
	if err != nil {
		return nil, err
	}
	return &Client{
		base: "https://" + u.Host, at: server,
		http: http.Client{Timeout: requestTimeout, Transport: &http.Transport{TLSClientConfig: conf}},
	}, nil
}

func identityTLS(file string) (*tls.Config, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("admin: %s may be read by others (mode %04o): run chmod 600 on it", file, perm)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	cert, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("admin: %s: %w", file, err)
	}
	roots := x509.NewCertPool()
	n := 0
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && c.IsCA {
			roots.AddCert(c)
			n++
		}
	}
	if n == 0 {
		return nil, fmt.Errorf("admin: %s holds no authority's certificate to know the control plane by", file)
	}
	if time.Now().After(cert.Leaf.NotAfter) {
		return nil, fmt.Errorf("admin: the certificate in %s expired at %s: have a new one issued (mesh admin issue)", file, cert.Leaf.NotAfter.Format(time.RFC3339))
	}
	cert.Certificate = cert.Certificate[:1]
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}, nil
}

package store

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// An EtcdURL says which etcd cluster to use and how.
type EtcdURL struct {
	// Endpoints are "host:port".
	Endpoints []string
	// Prefix precedes all keys; it starts with a slash and does not end with one.
	Prefix string
	// CA is a PEM file of the roots that vouch for the cluster; "" means the system's.
	CA string
	// Cert and Key are PEM files of the client certificate; "" for none.
	Cert, Key string
	// Plaintext means no TLS: whoever can read the traffic learns the rules, and whoever can change it
	// makes them.
	Plaintext bool
}

// ParseEtcdURL reads etcd://HOST:PORT[,HOST:PORT…]/PREFIX[?ca=FILE&cert=FILE&key=FILE]. TLS is 1.3; the
// parameter plaintext=true turns it off. The prefix can't be empty.
func ParseEtcdURL(raw string) (EtcdURL, error) {
	var e EtcdURL
	rest, ok := strings.CutPrefix(raw, "etcd://")
	if !ok {
		return e, fmt.Errorf("store: %q does not start with etcd://", raw)
	}
	// net/url takes one host only.
	hosts, rest, _ := strings.Cut(rest, "/")
	path, query, _ := strings.Cut(rest, "?")
	if strings.ContainsAny(hosts, "@?") || path == "" {
		return e, fmt.Errorf("store: %q is not etcd://HOST:PORT,…/PREFIX?…", raw)
	}
	for h := range strings.SplitSeq(hosts, ",") {
		if host, port, err := net.SplitHostPort(h); err != nil || host == "" || port == "" {
			return e, fmt.Errorf("store: etcd endpoint %q is not HOST:PORT", h)
		}
		e.Endpoints = append(e.Endpoints, h)
	}
	e.Prefix = "/" + strings.TrimSuffix(path, "/")
	q, err := url.ParseQuery(query)
	if err != nil {
		return e, fmt.Errorf("store: parameters of %q: %w", raw, err)
	}
	for name, values := range q {
		v := values[len(values)-1]
		switch name {
		case "ca":
			e.CA = v
		case "cert":
			e.Cert = v
		case "key":
			e.Key = v
		case "plaintext":
			if v != "true" && v != "false" {
				return e, fmt.Errorf("store: plaintext=%q, want true or false", v)
			}
			e.Plaintext = v == "true"
		default:
			return e, fmt.Errorf("store: unknown parameter %q (there are ca, cert, key, plaintext)", name)
		}
	}
	if e.Plaintext && (e.CA != "" || e.Cert != "" || e.Key != "") {
		return e, errors.New("store: plaintext=true and certificates exclude each other")
	}
	if (e.Cert == "") != (e.Key == "") {
		return e, errors.New("store: cert and key belong together")
	}
	return e, nil
}

func (u EtcdURL) config() (clientv3.Config, error) {
	c := clientv3.Config{
		DialTimeout:          etcdTimeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		PermitWithoutStream:  true,
		MaxCallSendMsgSize:   2 * MaxCommit,
	}
	scheme := "https://"
	if u.Plaintext {
		scheme = "http://"
	} else {
		t, err := u.tls()
		if err != nil {
			return c, err
		}
		c.TLS = t
	}
	for _, h := range u.Endpoints {
		c.Endpoints = append(c.Endpoints, scheme+h)
	}
	return c, nil
}

func (u EtcdURL) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS13}
	if u.CA != "" {
		pem, err := os.ReadFile(u.CA)
		if err != nil {
			return nil, fmt.Errorf("store: etcd ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("store: etcd ca: no certificate in %s", u.CA)
		}
	}
	if u.Cert != "" {
		if _, err := tls.LoadX509KeyPair(u.Cert, u.Key); err != nil {
			return nil, fmt.Errorf("store: etcd client certificate: %w", err)
		}
		// Read at every handshake: these certificates are renewed too.
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(u.Cert, u.Key)
			return &c, err
		}
	}
	return t, nil
}

package mesh_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// bareClient is orders as a TLS client without any of our code.
func (w *world) bareClient(edit ...func(*x509.Certificate)) *tls.Config {
	w.t.Helper()
	svid, err := w.ca.SVID("orders", edit...)
	if err != nil {
		w.t.Fatal(err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
		Certificates: []tls.Certificate{testca.Certificate(svid)},
	}
}

func dialTLS(t testing.TB, addr string, conf *tls.Config) (*tls.Conn, error) {
	d := tls.Dialer{Config: conf}
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

// alertOnly fails the test unless the server gives the client nothing but a TLS alert.
func alertOnly(t *testing.T, addr string, conf *tls.Config) {
	t.Helper()
	c, err := dialTLS(t, addr, conf)
	if err == nil {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
		var b []byte
		b, err = io.ReadAll(c)
		if len(b) > 0 {
			t.Fatalf("the server sent %q", b)
		}
	}
	var alert tls.AlertError
	var op *net.OpError
	if !errors.As(err, &alert) && (!errors.As(err, &op) || op.Op != "remote error") {
		t.Fatalf("got %v, want a TLS alert", err)
	}
}

func TestStrangersGetAnAlert(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	ln := w.listen(w.join("payments"))
	w.echo(ln)
	other := newWorld(t)
	addr := ln.Addr().String()
	uri := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
	none := w.bareClient()
	none.Certificates = nil
	old := w.bareClient()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for name, conf := range map[string]*tls.Config{
		"another CA":  other.bareClient(),
		"expired":     w.bareClient(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }),
		"not yet":     w.bareClient(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }),
		"two URIs":    w.bareClient(uri("spiffe://prod.example/admin")),
		"no URI":      w.bareClient(func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"orders"} }),
		"other trust": w.bareClient(func(c *x509.Certificate) { c.URIs = nil }, uri("spiffe://prod.example.evil/orders")),
		"none":        none,
		"TLS 1.2":     old,
	} {
		t.Run(name, func(t *testing.T) { alertOnly(t, addr, conf) })
	}
	t.Run("the same client with a valid one", func(t *testing.T) {
		c, err := dialTLS(t, addr, w.bareClient())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := ping(c); err != nil {
			t.Fatal(err)
		}
	})
}

func TestResumedSessionIsAuthorizedAgain(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	ln := w.listen(w.join("payments"))
	w.echo(ln)
	dial := w.resume(ln.Addr().String())
	w.rules.set()
	c, err := dial()
	if c == nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !c.ConnectionState().DidResume {
		t.Fatal("the session was not resumed: the test proves nothing")
	}
	if err == nil {
		t.Error("a resumed session was served after the rule was removed")
	}
}

// resume makes a session and resumes it once; the returned function resumes it again and pings.
func (w *world) resume(addr string) func() (*tls.Conn, error) {
	w.t.Helper()
	conf := w.bareClient()
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	dial := func() (*tls.Conn, error) {
		c, err := dialTLS(w.t, addr, conf)
		if err != nil {
			return nil, err
		}
		return c, ping(c)
	}
	for _, resumed := range []bool{false, true} {
		c, err := dial()
		if err != nil {
			w.t.Fatal(err)
		}
		c.Close()
		if got := c.ConnectionState().DidResume; got != resumed {
			w.t.Fatalf("DidResume = %v, want %v", got, resumed)
		}
	}
	return dial
}

// swap is a source whose trust bundle can be replaced.
type swap struct {
	identity.Source
	bundle  x509bundle.Source
	changed chan struct{}
}

func (s *swap) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return s.bundle.GetX509BundleForTrustDomain(td)
}
func (s *swap) Changed() <-chan struct{} { return s.changed }

func TestResumedSessionIsVerifiedAgain(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	src := &swap{Source: w.source("payments"), bundle: w.ca.Bundle(), changed: make(chan struct{})}
	ln := w.listen(w.join("payments", func(c *mesh.Config) { c.Identity = src }))
	w.echo(ln)
	dial := w.resume(ln.Addr().String())
	src.bundle = newWorld(t).ca.Bundle() // another root, the same trust domain
	if c, err := dial(); err == nil {
		c.Close()
		t.Error("a resumed session was served after its root was replaced")
	}
}

func TestExpiryCutsOpenConnection(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	ln := w.listen(w.join("payments"))
	w.echo(ln)
	c, err := dialTLS(t, ln.Addr().String(), w.bareClient(func(c *x509.Certificate) {
		c.NotAfter = time.Now().Add(2 * time.Second)
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(c); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("read beyond the certificate's end: %v", err)
	} else if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		t.Error("the connection outlived its certificate")
	}
}

func TestPostQuantumKeyExchange(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	ln := w.listen(w.join("payments"))
	w.echo(ln)
	c, err := dialTLS(t, ln.Addr().String(), w.bareClient())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if id := c.ConnectionState().CurveID; id != tls.X25519MLKEM768 {
		t.Errorf("key exchange %v, want X25519MLKEM768", id)
	}
}

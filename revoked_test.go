package mesh_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// signedRules allow everything, and revoke what revoke is told, by signed bundles as members get them.
type signedRules struct {
	*policy.Syncer
	t       testing.TB
	key     ed25519.PrivateKey
	td      spiffeid.TrustDomain
	version uint64
	revoked []policy.Revocation
}

func (w *world) signedRules() *signedRules {
	w.t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	td := w.ca.TrustDomain()
	s, err := policy.NewSyncer(policy.SyncConfig{TrustDomain: td, Keys: []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	r := &signedRules{Syncer: s, t: w.t, key: key, td: td}
	r.revoke()
	return r
}

func (r *signedRules) revoke(more ...policy.Revocation) {
	r.t.Helper()
	docs, err := policy.Parse("", []byte(`{"apiVersion":"mesh/v1","kind":"Default","metadata":{"name":"open"},"spec":{"service":"*","verdict":"allow"}}`))
	if err != nil {
		r.t.Fatal(err)
	}
	r.version++
	r.revoked = append(r.revoked, more...)
	b, err := policy.Sign(&policy.Bundle{TrustDomain: r.td, Version: r.version, Issued: time.Now(), Documents: docs, Revoked: r.revoked}, r.key)
	if err == nil {
		err = r.Apply(b)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// revocation is of the certificate that a source shows now.
func revocation(t testing.TB, src identity.Source) policy.Revocation {
	t.Helper()
	svid, err := src.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	return revocationOf(svid.Certificates[0])
}

func revocationOf(c *x509.Certificate) policy.Revocation {
	return policy.Revocation{
		Serial: c.SerialNumber.Text(16), Authority: hex.EncodeToString(c.AuthorityKeyId),
		Expires: c.NotAfter, Reason: "stolen",
	}
}

// revocableWorld is payments, which serves, and orders, which calls it; each with rules of its own.
type revocableWorld struct {
	*world
	payments, orders         *mesh.Mesh
	paymentsIs, ordersIs     identity.Source
	atPayments, atOrders     *signedRules
	log                      *bytes.Buffer
	connCut, handshakeFailed chan error
}

func newRevocableWorld(t *testing.T) *revocableWorld {
	w := newWorld(t)
	r := &revocableWorld{
		world: w, paymentsIs: w.source("payments"), ordersIs: w.source("orders"),
		atPayments: w.signedRules(), atOrders: w.signedRules(), log: new(bytes.Buffer),
		connCut: make(chan error, 8), handshakeFailed: make(chan error, 8),
	}
	r.payments = w.join("payments", func(c *mesh.Config) {
		c.Identity, c.Policy = r.paymentsIs, r.atPayments
		c.Logger = slog.New(slog.NewTextHandler(&lockedWriter{w: r.log}, nil))
		c.Trace = &mesh.Trace{
			ConnCut:         func(_ mesh.Peer, why *mesh.DeniedError) { r.connCut <- why },
			HandshakeFailed: func(_ netip.AddrPort, err error) { r.handshakeFailed <- err },
		}
	})
	r.orders = w.join("orders", func(c *mesh.Config) { c.Identity, c.Policy = r.ordersIs, r.atOrders })
	return r
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func isRevoked(err error) bool {
	_, ok := errors.AsType[*policy.RevokedError](err)
	return ok
}

func TestRevokedClientIsRefused(t *testing.T) {
	w := newRevocableWorld(t)
	ln := w.listen(w.payments)
	w.echo(ln)
	// The chain is one that payments remembers as verified, and the second session is resumed.
	conf := w.bareClient()
	leaf := conf.Certificates[0].Leaf
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for _, resumed := range []bool{false, true} {
		c, err := dialTLS(t, ln.Addr().String(), conf)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := ping(c); err != nil || c.ConnectionState().DidResume != resumed {
			t.Fatalf("resumed %v: %v", c.ConnectionState().DidResume, err)
		}
	}
	w.atPayments.revoke(revocationOf(leaf))
	for range 2 { // both connections are cut
		if err := <-w.connCut; !isRevoked(err) {
			t.Errorf("cut since %v", err)
		}
	}
	alertOnly(t, ln.Addr().String(), conf)
	conf.ClientSessionCache = nil
	alertOnly(t, ln.Addr().String(), conf)
	for range 2 {
		if err := <-w.handshakeFailed; !isRevoked(err) {
			t.Errorf("the handshake failed with %v", err)
		}
	}
	if s := w.payments.Stats(); s.Revoked != 4 || s.Cut != 2 || s.HandshakesFailed != 2 {
		t.Errorf("counted %+v", s)
	}
	if err := w.payments.Close(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"refused: the certificate is revoked", "serial=" + leaf.SerialNumber.Text(16), "rules_version=2", "reason=stolen", "cut: no longer allowed"} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, w.log)
		}
	}
}

func TestRevokedServerIsRefused(t *testing.T) {
	w := newRevocableWorld(t)
	w.echo(w.listen(w.payments))
	c, err := w.orders.Dial(t.Context(), "tcp", "payments")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(c); err != nil {
		t.Fatal(err)
	}
	w.atOrders.revoke(revocation(t, w.paymentsIs))
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err = c.Read(make([]byte, 1))
	if d, ok := errors.AsType[*mesh.DeniedError](err); !ok || !isRevoked(err) || d.Destination != "payments" {
		t.Errorf("the open connection ended with %v", err)
	}
	if c, err := w.orders.Dial(t.Context(), "tcp", "payments"); err == nil {
		c.Close()
		t.Error("a revoked server was dialed")
	} else if _, ok := errors.AsType[*mesh.DialError](err); !ok || !isRevoked(err) {
		t.Errorf("dialing ended with %v", err)
	}
	if s := w.orders.Stats(); s.Revoked != 2 || s.Cut != 1 {
		t.Errorf("counted %+v", s)
	}
}

func TestRevocationCutsWhatIsOpen(t *testing.T) {
	w := newRevocableWorld(t)
	w.echo(w.listen(w.payments))
	inside := make(chan struct{}, 1)
	ended := make(chan struct{})
	w.serveHTTP(w.payments, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		inside <- struct{}{}
		<-r.Context().Done()
		close(ended)
	}, "web")
	raw, err := w.orders.Dial(t.Context(), "tcp", "payments")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := ping(raw); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://_web.payments/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: w.orders.Transport()}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-inside
	svid, err := w.ordersIs.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	w.atPayments.revoke(policy.Revocation{ID: svid.ID.String(), IssuedBefore: time.Now().Add(-30 * time.Second), Expires: svid.Certificates[0].NotAfter})
	_ = raw.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := raw.Read(make([]byte, 1)); !strings.Contains(err.Error(), "revoked") {
		t.Errorf("the raw connection ended with %v", err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the response ended as if it were complete")
	}
	<-ended
	for range 2 {
		if err := <-w.connCut; !isRevoked(err) {
			t.Errorf("cut since %v", err)
		}
	}
	// One that is issued later is good.
	again, err := w.ca.SVID("orders", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(-10 * time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	next := w.join("orders", func(c *mesh.Config) { c.Identity, c.Policy = identity.Static(again, w.ca.Bundle()), w.atOrders })
	c, err := next.Dial(t.Context(), "tcp", "payments")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(c); err != nil {
		t.Errorf("after enrolling anew: %v", err)
	}
}

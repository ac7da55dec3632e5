package enrol_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/enrol"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// glog, below smallstep's badger, starts it when it is linked in.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

var trustDomain = spiffeid.RequireTrustDomainFromString("example.test")

func newDB(t testing.TB) store.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	if err := store.Create(path); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// newGate is a gate that answers with the service as the one-time token.
func newGate(t testing.TB, s enrol.Settings) (*enrol.Gate, store.DB) {
	t.Helper()
	db := newDB(t)
	g, err := enrol.New(enrol.Config{
		TrustDomain: trustDomain.Name(), DB: db, Settings: s,
		Issue: func(service, _ string) (string, error) { return "ott for " + service, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, db
}

func token(t testing.TB, g *enrol.Gate, s enrol.Spec) (string, enrol.Token) {
	t.Helper()
	if s.Lifetime == 0 {
		s.Lifetime = time.Hour
	}
	value, tok, err := g.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return value, tok
}

// newCSR is the hash of a certificate request that nobody else makes.
func newCSR() [sha256.Size]byte { return sha256.Sum256([]byte(rand.Text())) }

// ask sends a request from 10.1.2.3 and returns the answer or the refusal.
func ask(t testing.TB, g http.Handler, kind, proof, service string, csr [sha256.Size]byte) (int, string) {
	t.Helper()
	body, err := json.Marshal(wire.EnrolRequest{Kind: kind, Proof: proof, Service: service, CSR: base64.RawURLEncoding.EncodeToString(csr[:])})
	if err != nil {
		t.Fatal(err)
	}
	return post(t, g, body)
}

func post(t testing.TB, g http.Handler, body []byte) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, wire.PathEnrol, bytes.NewReader(body))
	r.RemoteAddr = "10.1.2.3:4567"
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	var answer struct{ OTT, Message string }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return w.Code, answer.OTT + answer.Message
}

// A plane is a real CA with a gate before it.
type plane struct {
	*ca.CA
	*enrol.Gate
	addr string
}

func newPlane(t *testing.T, s enrol.Settings) *plane {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if err := ca.Create(dir, trustDomain); err != nil {
		t.Fatal(err)
	}
	db := newDB(t)
	c, err := ca.Open(ca.Config{Dir: dir, DB: db, Host: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{CA: c, addr: ln.Addr().String()}
	p.Gate, err = enrol.New(enrol.Config{
		TrustDomain: trustDomain.Name(), DB: db, Settings: s,
		Issue: func(service, csr string) (string, error) { return c.OneTimeToken(service, csr, p.addr) },
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := c.Server(p.Gate)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.ServeTLS(ln, "", "") }) // ErrServerClosed
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if err := p.Gate.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func id(service string) spiffeid.ID { return spiffeid.RequireFromPath(trustDomain, "/"+service) }

// enrol gets a certificate as every member does.
func (p *plane) enrol(ctx context.Context, service, tok string, prove identity.Prover) error {
	s, err := identity.NewStepCA(ctx, identity.StepCAConfig{
		URL: "https://" + p.addr, RootFingerprint: p.Fingerprint(), ID: id(service), Token: tok, Prove: prove,
	})
	if err != nil {
		return err
	}
	defer s.Close()
	svid, err := s.GetX509SVID()
	if err == nil && svid.ID != id(service) {
		panic("enrolled as " + svid.ID.String())
	}
	return err
}

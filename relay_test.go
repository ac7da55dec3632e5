package mesh_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// asPeer makes a config one of a member that has a question; package control's tests see the answers.
func asPeer(conf *tls.Config) *tls.Config {
	conf.NextProtos = []string{"mesh-peer/1"}
	return conf
}

const question = "GET /v1/join HTTP/1.1\r\nHost: mesh\r\n\r\n"

// TestQuestionsArePartOfNoRule: the rules say who may call a service, not who may ask a member what the control plane said, also
// not while they change.
func TestQuestionsArePartOfNoRule(t *testing.T) {
	w := newWorld(t, rule{from: "shop", to: "payments"})
	payments := w.join("payments")
	ln := w.listen(payments)
	w.echo(ln)
	c, err := dialTLS(t, ln.Addr().String(), asPeer(w.bareClient()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, question[:10]); err != nil {
		t.Fatal(err)
	}
	caller, err := w.join("shop").DialEndpoint(t.Context(), "payments", addrOf(ln))
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	if err := ping(caller); err != nil {
		t.Fatal(err)
	}
	w.rules.set()
	if _, err := caller.Read(make([]byte, 1)); err == nil {
		t.Error("the caller is not cut")
	}
	if _, err := io.WriteString(c, question[10:]); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound { // it has no control plane that could have said anything
		t.Errorf("the answer is %s", resp.Status)
	}
	if n := payments.Stats().Cut; n != 1 {
		t.Errorf("%d connections were cut, want that of the caller alone", n)
	}
}

// TestQuestionsOfStrangers: a peer that is verified, but of another trust domain, is told nothing.
func TestQuestionsOfStrangers(t *testing.T) {
	w := newWorld(t)
	friend, err := testca.New(spiffeid.RequireTrustDomainFromString("friend.example"))
	if err != nil {
		t.Fatal(err)
	}
	svid, err := w.ca.SVID("payments")
	if err != nil {
		t.Fatal(err)
	}
	ln := w.listen(w.join("payments", func(c *mesh.Config) {
		c.Identity = identity.Static(svid, w.ca.Bundle(), friend.Bundle())
	}))
	w.echo(ln)
	theirs, err := friend.SVID("orders")
	if err != nil {
		t.Fatal(err)
	}
	conf := w.bareClient()
	conf.Certificates = []tls.Certificate{testca.Certificate(theirs)}
	c, err := dialTLS(t, ln.Addr().String(), asPeer(conf))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, question) // it may be closed already
	if got, err := io.ReadAll(c); len(got) > 0 {
		t.Errorf("a stranger was told %q, %v", got, err)
	}
}

// TestSilentQuestionHoldsNobodyUp: closing does not wait for a member that asks nothing.
func TestSilentQuestionHoldsNobodyUp(t *testing.T) {
	w := newWorld(t)
	payments := w.join("payments")
	ln := w.listen(payments)
	w.echo(ln)
	c, err := dialTLS(t, ln.Addr().String(), asPeer(w.bareClient()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, question[:10]); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := payments.Close(); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("closing took %v", d)
	}
}

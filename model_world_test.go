package mesh_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/meshtest"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
)

// modelWorld is a real mesh that does what the model does. All of it is in one synctest bubble.
type modelWorld struct {
	t        *testing.T
	net      *meshtest.Net
	cas      [2]*testca.CA
	payments *changingSource
	callers  map[string]*modelCaller
	rules    *versions
	certs    map[string]int // the CA of each certificate that was issued, by caller and expiry
	serials  map[revokedCert]string
	state    modelState
	checked  int
	reused   uint64 // raw connections that were dialed without a handshake
	early    uint64
	closers  []func()

	mu   sync.Mutex
	live map[*live]struct{}
	held []*held
}

type modelCaller struct {
	mesh   *mesh.Mesh
	grpc   *grpc.ClientConn
	source *changingSource
	cert   cert
}

// live is something open, as the server sees it.
type live struct {
	use  use
	id   string
	ping chan struct{} // of a request: write one more line
}

// held is something open, as the caller sees it.
type held struct {
	use   use
	id    string
	ping  func() error
	close func()
}

// changingSource is an identity that a test replaces.
type changingSource struct {
	mu      sync.Mutex
	svid    *x509svid.SVID
	bundle  *x509bundle.Bundle
	changed chan struct{}
}

func (s *changingSource) set(svid *x509svid.SVID, bundle *x509bundle.Bundle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if svid != nil {
		s.svid = svid
	}
	if bundle != nil {
		s.bundle = bundle
	}
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

func (s *changingSource) GetX509SVID() (*x509svid.SVID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.svid, nil
}

func (s *changingSource) GetX509BundleForTrustDomain(spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bundle, nil
}

func (s *changingSource) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func newModelWorld(t *testing.T) *modelWorld {
	w := &modelWorld{
		t: t, net: meshtest.New(t), payments: new(changingSource), callers: make(map[string]*modelCaller),
		certs: make(map[string]int), serials: make(map[revokedCert]string), live: make(map[*live]struct{}), state: modelState{trust: 3},
		rules: newVersions(nil),
	}
	w.setRules(w.state)
	for i := range w.cas {
		ca, err := testca.New(spiffeid.RequireTrustDomainFromString(meshtest.TrustDomain))
		if err != nil {
			t.Fatal(err)
		}
		w.cas[i] = ca
	}
	w.payments.set(w.svid("payments", 0, time.Now().Add(1000*time.Hour)), w.bundle(3))
	m := w.join("payments", w.payments)
	w.serveRaw(m)
	w.serveHTTP(m, "h1", "http/1.1")
	w.serveHTTP(m, "h2", "h2")
	w.serveHTTP(m, "up", "http/1.1")
	w.serveGRPC(m)
	for _, name := range modelCallers {
		c := &modelCaller{source: new(changingSource)}
		w.callers[name] = c
		w.renew(renewal{name, 0, 10 * time.Minute})
		c.mesh = w.join(name, c.source)
		c.grpc = w.grpcClient(c.mesh)
	}
	return w
}

func (w *modelWorld) join(service string, src *changingSource) *mesh.Mesh {
	return w.net.JoinConfig(w.t, mesh.Config{Service: service, Identity: src, Policy: w.rules, Logger: slog.New(slog.DiscardHandler)})
}

func (w *modelWorld) svid(service string, ca int, expiry time.Time) *x509svid.SVID {
	svid, err := w.cas[ca].SVID(service, func(c *x509.Certificate) { c.NotAfter = expiry })
	if err != nil {
		w.t.Fatal(err)
	}
	return svid
}

// bundle holds the roots of the CAs whose bits are set.
func (w *modelWorld) bundle(trust int) *x509bundle.Bundle {
	b := x509bundle.New(spiffeid.RequireTrustDomainFromString(meshtest.TrustDomain))
	for i, ca := range w.cas {
		if trust&(1<<i) != 0 {
			b.AddX509Authority(ca.Root)
		}
	}
	return b
}

// renew gives a caller another certificate, with an expiry that it had not before: by that the server's side knows which it is.
func (w *modelWorld) renew(r renewal) {
	expiry := time.Now().Add(r.Life).Truncate(time.Second)
	key := func() string { return r.Caller + expiry.UTC().String() }
	for _, taken := w.certs[key()]; taken; _, taken = w.certs[key()] {
		expiry = expiry.Add(time.Second)
	}
	w.certs[key()] = r.CA
	c := w.callers[r.Caller]
	c.cert = cert{r.CA, expiry}
	svid := w.svid(r.Caller, r.CA, expiry)
	w.serials[revokedCert{r.Caller, expiry.UTC()}] = svid.Certificates[0].SerialNumber.Text(16)
	c.source.set(svid, w.bundle(3))
}

// open registers something on the server's side, until done is called.
func (w *modelWorld) open(p mesh.Peer, u use, id string) (l *live, done func()) {
	u.caller, u.cert = p.Service(), cert{w.certOf(p), p.Expiry}
	l = &live{use: u, id: id, ping: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live[l] = struct{}{}
	return l, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.live, l)
	}
}

func (w *modelWorld) certOf(p mesh.Peer) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.certs[p.Service()+p.Expiry.UTC().String()]
}

func (w *modelWorld) alive() []*live {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*live
	for l := range w.live {
		out = append(out, l)
	}
	return out
}

func (w *modelWorld) find(id string) *live {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.live {
		if l.id == id {
			return l
		}
	}
	return nil
}

// serveRaw echoes lines; the first is the caller's name for the connection.
func (w *modelWorld) serveRaw(m *mesh.Mesh) {
	ln, err := m.Listen(w.t.Context(), "tcp", ":0", mesh.ListenOptions{Port: "raw"})
	if err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	w.closers = append(w.closers, func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				p, _ := mesh.PeerFromConn(c)
				l, done := w.open(p, use{port: "raw"}, "")
				defer done()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					w.mu.Lock()
					l.id = lines.Text()
					w.mu.Unlock()
					if _, err := fmt.Fprintln(c, lines.Text()); err != nil {
						return
					}
				}
			})
		}
	})
}

// serveHTTP answers each request with a line, and with another one whenever it is told to, until it is ended.
func (w *modelWorld) serveHTTP(m *mesh.Mesh, port, alpn string) {
	ln, err := m.Listen(w.t.Context(), "tcp", ":0", mesh.ListenOptions{Port: port, ALPN: []string{alpn}})
	if err != nil {
		w.t.Fatal(err)
	}
	h := m.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		p, _ := mesh.PeerFromContext(r.Context())
		l, done := w.open(p, use{port: port, path: r.URL.Path, request: true}, r.Header.Get("X-Id"))
		defer done()
		if port == "up" {
			upgrade(rw)
			return
		}
		for {
			if _, err := fmt.Fprintln(rw, l.id); err != nil || http.NewResponseController(rw).Flush() != nil || r.Header.Get("X-Quick") != "" {
				return
			}
			select {
			case <-l.ping:
			case <-r.Context().Done():
				return
			}
		}
	}), port)
	var mu sync.Mutex
	conns := make(map[net.Conn]func())
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: time.Hour, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
		ConnState: func(c net.Conn, s http.ConnState) {
			mu.Lock()
			defer mu.Unlock()
			switch s {
			case http.StateNew:
				p, _ := mesh.PeerFromConn(c)
				_, conns[c] = w.open(p, use{port: port}, "")
			case http.StateClosed, http.StateHijacked: // what was upgraded is a request that goes on
				conns[c]()
			}
		},
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ln) })
	w.closers = append(w.closers, func() { srv.Close(); wg.Wait() })
}

// dial opens a use, and keeps it if it works.
func (w *modelWorld) dial(u use, id string) (*held, error) {
	ctx, cancel := context.WithCancel(w.t.Context())
	h := &held{use: u, id: id}
	deadline := time.AfterFunc(10*time.Second, cancel)
	defer deadline.Stop()
	c := w.callers[u.caller]
	if u.port == "raw" {
		conn, err := c.mesh.Dial(ctx, "tcp", "payments:raw")
		if err != nil {
			cancel()
			return nil, err
		}
		lines := bufio.NewReader(conn)
		h.close = func() { cancel(); conn.Close() }
		h.ping = func() error {
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			if _, err := fmt.Fprintln(conn, id); err != nil {
				return err
			}
			_, err := lines.ReadString('\n')
			return err
		}
		if err := h.ping(); err != nil {
			h.close()
			return nil, err
		}
		return h, nil
	}
	if u.port == "grpc" {
		stop, err := w.stream(ctx, h)
		h.close = func() { cancel(); stop() }
		if err != nil {
			h.close()
			return nil, err
		}
		return h, nil
	}
	resp, err := w.get(ctx, u, id, false)
	if err != nil {
		cancel()
		return nil, err
	}
	if u.port == "up" {
		return upgraded(h, resp, cancel)
	}
	lines := bufio.NewReader(resp.Body)
	h.close = func() { cancel(); resp.Body.Close() }
	h.ping = func() error {
		l := w.find(id)
		if l == nil {
			return errors.New("the server has ended it")
		}
		select {
		case l.ping <- struct{}{}:
		case <-time.After(time.Second):
			return errors.New("the server does not answer")
		}
		_, err := lines.ReadString('\n')
		return err
	}
	if _, err := lines.ReadString('\n'); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (w *modelWorld) get(ctx context.Context, u use, id string, quick bool) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://_"+u.port+".payments"+u.path, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Id", id)
	if quick {
		req.Header.Set("X-Quick", "1")
	}
	want := http.StatusOK
	if u.port == "up" {
		want = http.StatusSwitchingProtocols
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "echo")
	}
	resp, err := w.callers[u.caller].mesh.HTTPClient().Do(req)
	if err == nil && resp.StatusCode != want {
		resp.Body.Close()
		return nil, errors.New(resp.Status)
	}
	return resp, err
}

// ask makes a use that is over at once.
func (w *modelWorld) ask(u use, id string) error {
	if u.port != "h1" && u.port != "h2" {
		h, err := w.dial(u, id)
		if err == nil {
			h.close()
		}
		return err
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	resp, err := w.get(ctx, u, id, true)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func (w *modelWorld) setRules(s modelState) {
	var docs []string
	for i, r := range s.rules {
		action := map[bool]string{true: "deny", false: "allow"}[r.Deny]
		docs = append(docs, fmt.Sprintf(
			`{"apiVersion":"mesh/v1","kind":"Authorization","metadata":{"name":"r%d"},"spec":{"service":"payments","action":%q,"rules":[%s]}}`,
			i, action, r.json()))
	}
	parsed, err := policy.Parse("", []byte(strings.Join(docs, "\n")))
	if err != nil {
		w.t.Fatal(err)
	}
	b := &policy.Bundle{TrustDomain: spiffeid.RequireTrustDomainFromString(meshtest.TrustDomain), Version: w.rules.Engine().Version() + 1, Documents: parsed}
	for _, r := range s.revoked {
		b.Revoked = append(b.Revoked, policy.Revocation{Serial: w.serials[r], Expires: r.expiry})
	}
	e, err := policy.Compile(b)
	if err != nil {
		w.t.Fatal(err)
	}
	w.rules.set(e)
}

// step does what the step says, and then compares with the model.
func (w *modelWorld) step(s step) error {
	for _, r := range s.Renew {
		w.renew(r)
	}
	before, next := w.state, w.state
	var wg sync.WaitGroup
	if s.Rules != nil {
		next.rules = *s.Rules
	}
	if s.Revoke != "" {
		next.revoked = append(slices.Clone(next.revoked), revokedCert{s.Revoke, w.callers[s.Revoke].cert.expiry.UTC()})
	}
	if s.Trust != nil {
		next.trust = *s.Trust
	}
	if s.Rules != nil || s.Revoke != "" {
		wg.Go(func() { w.setRules(next) })
	}
	if s.Trust != nil {
		wg.Go(func() { w.payments.set(nil, w.bundle(*s.Trust)) })
	}
	type result struct {
		use  use
		held *held
		err  error
	}
	results := make([]result, len(s.Open)+len(s.Ask))
	for i, u := range slices.Concat(s.Open, s.Ask) {
		id := fmt.Sprintf("%d-%d", w.checked, i)
		u.cert = w.callers[u.caller].cert
		wg.Go(func() {
			r := &results[i]
			r.use = u
			if u.port == "raw" && w.ask(u, id+"-before") == nil { // which leaves a connection to be used again
				<-time.After(time.Millisecond)
			}
			if i < len(s.Open) {
				if r.held, r.err = w.dial(u, id); r.held == nil {
					return
				}
				if l := w.find(id); l != nil {
					r.held.use.cert = l.use.cert // an HTTP connection may be older than the caller's certificate
				}
			} else {
				r.err = w.ask(u, id)
			}
		})
	}
	wg.Wait()
	w.state = next
	for _, r := range results {
		why := before.forbids(r.use, time.Now())
		if why == "" {
			why = next.forbids(r.use, time.Now())
		}
		if why == "" && r.err != nil {
			return fmt.Errorf("%+v is allowed by %+v and before by %+v, and fails: %w", r.use, next, before, r.err)
		}
		if r.held == nil {
			continue
		}
		w.held = append(w.held, r.held)
	}
	for range min(s.Close, len(w.held)) {
		w.held[0].close()
		w.held = w.held[1:]
	}
	if err := w.check(before); err != nil || s.Wait == 0 {
		return err
	}
	<-time.After(s.Wait)
	return w.check(next)
}

// check compares what is open with the model, once the state has been in force for long enough. Before is the state before it.
func (w *modelWorld) check(before modelState) error {
	<-time.After(inForce)
	synctest.Wait()
	now := time.Now()
	var err error
	for _, l := range w.alive() {
		w.checked++
		if why := w.state.forbids(l.use, now.Add(-inForce)); why != "" {
			return fmt.Errorf("%+v is open at %v, and %s; the state is %+v", l.use, now, why, w.state)
		}
	}
	w.held = slices.DeleteFunc(w.held, func(h *held) bool {
		cut := h.ping()
		if cut == nil {
			return false
		}
		h.close()
		if before.forbids(h.use, now) == "" && w.state.forbids(h.use, now) == "" {
			err = fmt.Errorf("%+v was allowed by %+v and is by %+v, and ended: %w", h.use, before, w.state, cut)
		}
		return true
	})
	return err
}

func (w *modelWorld) close() {
	for _, h := range w.held {
		h.close()
	}
	for _, c := range w.callers {
		w.reused += c.mesh.Stats().Reused
		w.early += c.mesh.Stats().Early
		c.grpc.Close()
		c.mesh.Close()
	}
	for _, f := range w.closers {
		f()
	}
}

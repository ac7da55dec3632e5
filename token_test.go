package mesh_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
	"github.com/intramesh/mesh/policy"
	"github.com/intramesh/mesh/policy/jwt"
)

// idp signs tokens.
type idp struct {
	signer jose.Signer
	keys   string
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	public, secret, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := new(idp)
	p.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: secret, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	p.keys = string(b)
	return p
}

// token returns a request header's value.
func (p *idp) token(t *testing.T, role string, life time.Duration) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"iss": "https://idp.example", "aud": "payments", "role": role, "exp": time.Now().Add(life).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	sig, err := p.signer.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sig.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + s
}

// issuer is the document of an issuer with these fields in its spec.
func issuer(t *testing.T, fields map[string]any) string {
	t.Helper()
	spec := map[string]any{"issuer": "https://idp.example", "audiences": []string{"payments"}, "clockSkew": "0s"}
	maps.Copy(spec, fields)
	b, err := json.Marshal(map[string]any{"apiVersion": "mesh/v1", "kind": "TokenIssuer", "metadata": map[string]any{"name": "idp"}, "spec": spec})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const admins = `{"apiVersion": "mesh/v1", "kind": "Authorization", "metadata": {"name": "admins"}, "spec": {"service": "payments", "action": "allow",
	"rules": [{"from": [{"services": ["orders"]}], "to": [{"paths": ["/*"]}], "when": [{"key": "request.jwt.claim.role", "values": ["admin"]}]}]}}`

func serveIn(t *testing.T, m *mesh.Mesh, h http.Handler) {
	t.Helper()
	ln, err := m.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	serveUntilEnd(t, srv, ln)
}

func ask(t *testing.T, m *mesh.Mesh, token string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://payments/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := m.HTTPClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func wantDenied(t *testing.T, resp *http.Response, reason string) {
	t.Helper()
	if d, ok := mesh.DeniedFromResponse(resp); !ok || !strings.Contains(d.Reason, reason) {
		t.Errorf("%s %v, want a denial with %q", resp.Status, d, reason)
	}
}

func TestTokenDecidesRequestsAndEndsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(t)
		tokens := jwt.New(jwt.Config{})
		defer tokens.Close()
		w := meshtest.New(t, admins, issuer(t, map[string]any{"jwks": p.keys}))
		payments := w.JoinConfig(t, mesh.Config{Service: "payments", Tokens: tokens})
		ended := make(chan error, 1)
		serveIn(t, payments, payments.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(rw).Flush()
			<-r.Context().Done()
			ended <- context.Cause(r.Context())
		})))
		orders := w.Join(t, "orders")
		wantDenied(t, ask(t, orders, ""), "the request has no token")
		wantDenied(t, ask(t, orders, "Bearer e30.e30.x"), "not a signed JSON Web Token")
		wantDenied(t, ask(t, orders, p.token(t, "user", time.Minute)), "no rule allows GET /")
		wantDenied(t, ask(t, orders, p.token(t, "admin", -time.Minute)), "the token has expired")

		began := time.Now()
		resp := ask(t, orders, p.token(t, "admin", time.Minute))
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("the response ended without an error")
		}
		if d, ok := errors.AsType[*mesh.DeniedError](<-ended); !ok || !strings.Contains(d.Reason, "the token has expired") {
			t.Errorf("the handler's context ended with %v", d)
		}
		if d := time.Since(began); d < 59*time.Second || d > 61*time.Second {
			t.Errorf("it ended after %v", d)
		}
		if n := payments.Stats().Cut; n != 1 {
			t.Errorf("Stats().Cut = %d, want 1", n)
		}
	})
}

func TestClaimsAreUnavailableWithoutVerifier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIDP(t)
		w := meshtest.New(t, admins, issuer(t, map[string]any{"jwks": p.keys}))
		payments := w.Join(t, "payments")
		serveIn(t, payments, payments.Handler(http.NotFoundHandler()))
		wantDenied(t, ask(t, w.Join(t, "orders"), p.token(t, "admin", time.Minute)), "this process verifies no tokens")
	})
}

// slowTokens lets every token hold, once it is released.
type slowTokens struct {
	mu      sync.Mutex
	pending chan struct{}
	err     error
	asked   int
}

func (s *slowTokens) hold() (release func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := make(chan struct{})
	s.pending = ch
	return func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pending, s.err = nil, err
		close(ch)
	}
}

func (s *slowTokens) Verify(string, []*policy.TokenIssuer) (*policy.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.pending != nil {
		return nil, &policy.PendingError{Ready: s.pending, Issuer: "x"}
	}
	return &policy.Token{Claims: map[string]any{"role": "admin"}, Until: time.Now().Add(time.Hour)}, s.err
}

func TestRequestsWaitForKeysAndNotLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(slowTokens)
		doc := issuer(t, map[string]any{"jwksURL": "https://idp.example/keys"})
		w := meshtest.New(t, admins, doc)
		payments := w.JoinConfig(t, mesh.Config{Service: "payments", Tokens: tokens})
		open := make(chan struct{})
		serveIn(t, payments, payments.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(rw).Flush()
			select {
			case <-open:
			case <-r.Context().Done():
			}
		})))
		orders := w.Join(t, "orders")

		release := tokens.hold()
		began := time.Now()
		wantDenied(t, ask(t, orders, "Bearer x"), "the keys of x are being fetched")
		if d := time.Since(began); d < 2*time.Second || d > 2100*time.Millisecond {
			t.Errorf("denied after %v", d)
		}
		go func() {
			<-time.After(time.Second)
			release(nil)
		}()
		resp := ask(t, orders, "Bearer x")
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}

		// Other rules: the request under way is decided again, with keys that have to be fetched first.
		release = tokens.hold()
		before := payments.Stats().Cut
		w.SetRules(t, admins, doc, meshtest.Allow("ledger", "orders"))
		synctest.Wait()
		if n := payments.Stats().Cut; n != before {
			t.Error("it was cut while the keys were on their way")
		}
		release(nil)
		synctest.Wait()
		if n := payments.Stats().Cut; n != before {
			t.Error("it was cut although it is allowed")
		}
		release = tokens.hold()
		w.SetRules(t, admins, doc)
		synctest.Wait()
		release(errors.New("nothing came"))
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("it was not cut")
		}
		close(open)
	})
}

// A change of the rules that comes while a request waits to be decided is not missed.
func TestChangeWhileDeciding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(slowTokens)
		doc := issuer(t, map[string]any{"jwksURL": "https://idp.example/keys"})
		w := meshtest.New(t, admins, doc)
		payments := w.JoinConfig(t, mesh.Config{Service: "payments", Tokens: tokens})
		serveIn(t, payments, payments.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler was reached") })))
		orders := w.Join(t, "orders")
		release := tokens.hold()
		done := make(chan struct{})
		go func() {
			defer close(done)
			wantDenied(t, ask(t, orders, "Bearer x"), "")
		}()
		synctest.Wait()
		w.SetRules(t, strings.Replace(admins, "/*", "/other", 1), doc)
		synctest.Wait()
		release(nil)
		<-done
	})
}

// Nobody pays for tokens but those whose rules look at them.
func TestTokensAreVerifiedOnlyWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(slowTokens)
		w := meshtest.New(t, meshtest.Allow("payments", "orders"), strings.Replace(admins, `"payments"`, `"ledger"`, 1), issuer(t, map[string]any{"jwksURL": "https://idp.example/keys"}))
		payments := w.JoinConfig(t, mesh.Config{Service: "payments", Tokens: tokens})
		serveIn(t, payments, payments.Handler(http.NotFoundHandler()))
		if resp := ask(t, w.Join(t, "orders"), "Bearer x"); resp.StatusCode != http.StatusNotFound || tokens.asked != 0 {
			t.Error(resp.Status, tokens.asked)
		}
	})
}

// records keeps the warnings of a log.
type records struct {
	slog.Handler
	mu  sync.Mutex
	all []string
}

func (h *records) Enabled(context.Context, slog.Level) bool { return true }

func (h *records) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "warning" {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.all = append(h.all, a.Value.String())
		}
		return true
	})
	return nil
}

func (h *records) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *records) WithGroup(string) slog.Handler      { return h }

func (h *records) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.all
	h.all = nil
	return all
}

func TestRulesThatAListenerCannotEvaluateAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc := issuer(t, map[string]any{"jwksURL": "https://idp.example/keys"})
		w := meshtest.New(t, admins, doc)
		log := new(records)
		payments := w.JoinConfig(t, mesh.Config{Service: "payments", Logger: slog.New(log)})
		want := func(parts ...string) {
			t.Helper()
			synctest.Wait()
			got := log.take()
			if len(got) != len(parts) {
				t.Fatalf("told %q, want %q", got, parts)
			}
			for i, p := range parts {
				if !strings.Contains(got[i], p) {
					t.Errorf("told %q, want %q", got[i], p)
				}
			}
		}
		listen := func(port string) net.Listener {
			ln, err := payments.Listen(t.Context(), "tcp", "127.0.0.1:0", mesh.ListenOptions{Port: port})
			if err != nil {
				t.Fatal(err)
			}
			return ln
		}
		raw := listen("raw")
		want() // nobody accepts yet: a Handler may still come
		go func() { _, _ = raw.Accept() }()
		want(`admins: spec.rules[0]: looks at the claim, and port "raw" of payments serves connections`)
		web := listen("web")
		h := payments.Handler(http.NotFoundHandler(), "web")
		srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
		defer srv.Close()
		go func() { _ = srv.Serve(web) }()
		want(`port "web" of payments verifies no tokens`)
		w.SetRules(t, doc)
		want()
		w.SetRules(t, admins, doc)
		want(`port "web"`, `port "raw"`)
		w.SetRules(t, admins, doc, fmt.Sprintf(`{"apiVersion":"mesh/v1","kind":"Default","metadata":{"name":%q},"spec":{"service":"*","verdict":"deny"}}`, "d"))
		want() // told already
	})
}

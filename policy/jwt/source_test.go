package jwt_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/policy"
	"github.com/intramesh/mesh/policy/jwt"
)

func remote() policy.TokenIssuerSpec {
	return spec(func(s *policy.TokenIssuerSpec) { s.JWKSURL = "https://idp.example/keys" })
}

func TestKeysAreFetchedOnceAndRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k1, k2 := newKey(t, "k1", "EdDSA"), newKey(t, "k2", "EdDSA")
		p := &idp{status: http.StatusOK, body: jwks(t, k1), hold: make(chan struct{})}
		v := newVerifier(t, jwt.Config{HTTPClient: p.client()})
		by := issuers(t, remote())
		old := k1.sign(t, with(nil))
		var pending *policy.PendingError
		for range 10 { // one fetch for all
			if _, err := v.Verify(old, by); !errors.As(err, &pending) || pending.Issuer != "https://idp.example" {
				t.Fatal(err)
			}
		}
		close(p.hold)
		if _, err := verify(v, old, by); err != nil || p.count() != 1 {
			t.Fatal(err, p.count())
		}
		// An unknown key makes us ask, and not more often than every ten seconds.
		p.set(http.StatusOK, jwks(t, k1, k2))
		fresh := k2.sign(t, with(nil))
		_, err := verify(v, fresh, by)
		wantError(t, err, "does not publish")
		wait(10 * time.Second)
		if _, err := verify(v, fresh, by); err != nil || p.count() != 2 {
			t.Error(err, p.count())
		}
		for range 100 {
			_, err := verify(v, k1.signAs(t, object{"kid": "junk"}, with(nil)), by)
			wantError(t, err, "does not publish")
		}
		if p.count() != 2 {
			t.Errorf("%d fetches", p.count())
		}
		if _, err := v.Verify(old, by); err != nil {
			t.Error(err)
		}
		// A key that is withdrawn no longer counts once the next refresh has seen it, remembered tokens included.
		p.set(http.StatusOK, jwks(t, k2))
		wait(5 * time.Minute)
		if _, err := v.Verify(old, by); err != nil {
			t.Error("asking held up a request:", err)
		}
		synctest.Wait()
		_, err = verify(v, old, by)
		wantError(t, err, "does not publish")
		if _, err := verify(v, fresh, by); err != nil {
			t.Error(err)
		}
	})
}

func TestUnreachableIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t, "k1", "EdDSA")
		p := &idp{status: http.StatusInternalServerError}
		v := newVerifier(t, jwt.Config{HTTPClient: p.client()})
		by := issuers(t, remote())
		long := k.sign(t, with(object{"exp": time.Now().Add(100 * time.Hour).Unix()}))
		for range 10 {
			_, err := verify(v, long, by)
			wantError(t, err, "keys of https://idp.example can't be fetched")
		}
		if p.count() != 1 {
			t.Errorf("%d fetches at once", p.count())
		}
		p.set(http.StatusOK, jwks(t, k))
		wait(time.Second)
		if _, err := verify(v, long, by); err != nil {
			t.Fatal(err)
		}
		// The last good keys are used for a day.
		p.set(http.StatusNotFound, "")
		for range 24 {
			if _, err := v.Verify(long, by); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			wait(time.Hour - time.Second)
		}
		if _, err := v.Verify(long, by); err != nil {
			t.Error(err)
		}
		wait(time.Hour)
		_, err := verify(v, long, by)
		wantError(t, err, "can't be fetched")
		p.set(http.StatusOK, jwks(t, k))
		wait(time.Minute)
		if _, err := verify(v, long, by); err != nil {
			t.Error("it does not recover:", err)
		}
	})
}

func TestBadKeySetsKeepTheLastGood(t *testing.T) {
	for name, body := range map[string]string{
		"empty":       "",
		"not JSON":    "<html>",
		"no keys":     `{"keys":[]}`,
		"unknown":     `{"keys":[{"kty":"NEW"}]}`,
		"shared only": `{"keys":[{"kty":"oct","k":"AAAA"}]}`,
		"too large":   `{"keys":[],"x":"` + strings.Repeat("x", policy.MaxJWKS) + `"}`,
		"too many":    `{"keys":[` + strings.Repeat(`{},`, 200) + `{}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKey(t, "k1", "EdDSA")
				p := &idp{status: http.StatusOK, body: jwks(t, k)}
				v := newVerifier(t, jwt.Config{HTTPClient: p.client()})
				by := issuers(t, remote())
				if _, err := verify(v, k.sign(t, with(nil)), by); err != nil {
					t.Fatal(err)
				}
				p.set(http.StatusOK, body)
				wait(6 * time.Minute)
				if _, err := v.Verify(k.sign(t, with(nil)), by); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if _, err := v.Verify(k.sign(t, with(nil)), by); err != nil || p.count() != 2 {
					t.Error(err, p.count())
				}
			})
		})
	}
}

func TestSlowIssuerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t, "k1", "EdDSA")
		p := &idp{status: http.StatusOK, hold: make(chan struct{})}
		v := newVerifier(t, jwt.Config{HTTPClient: p.client()})
		began := time.Now()
		_, err := verify(v, k.sign(t, with(nil)), issuers(t, remote()))
		wantError(t, err, "can't be fetched")
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

func TestRedirectsStayOnHTTPS(t *testing.T) {
	k := newKey(t, "k1", "EdDSA")
	for _, to := range []string{"http://idp.example/keys", "https://idp.example/round"} {
		p := &idp{status: http.StatusOK, body: jwks(t, k), to: to}
		v := newVerifier(t, jwt.Config{HTTPClient: p.client()})
		_, err := verify(v, k.sign(t, with(nil)), issuers(t, remote()))
		wantError(t, err, "can't be fetched")
		if n := p.count(); n > 5 {
			t.Errorf("%s: %d requests", to, n)
		}
	}
}

func TestCloseEndsFetching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t, "k1", "EdDSA")
		p := &idp{status: http.StatusOK, hold: make(chan struct{})}
		v := jwt.New(jwt.Config{HTTPClient: p.client()})
		by := issuers(t, remote())
		var pending *policy.PendingError
		if _, err := v.Verify(k.sign(t, with(nil)), by); !errors.As(err, &pending) {
			t.Fatal(err)
		}
		for range 2 {
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		}
		<-pending.Ready
		_, err := v.Verify(k.sign(t, with(nil)), by)
		wantError(t, err, "can't be fetched")
	})
}

// The real thing: TLS, a socket, net/http.
func TestFetchOverTLS(t *testing.T) {
	k := newKey(t, "k1", "ES256")
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(jwks(t, k)))
	}))
	defer srv.Close()
	by := issuers(t, spec(func(s *policy.TokenIssuerSpec) { s.JWKSURL = srv.URL + "/keys" }))
	v := newVerifier(t, jwt.Config{HTTPClient: srv.Client()})
	if _, err := verify(v, k.sign(t, with(nil)), by); err != nil {
		t.Error(err)
	}
	// Without the test's authority it must not be believed.
	_, err := verify(newVerifier(t, jwt.Config{}), k.sign(t, with(nil)), by)
	wantError(t, err, "can't be fetched")
}

func FuzzVerify(f *testing.F) {
	k := newKey(f, "k1", "EdDSA")
	by := issuers(f, inline(f, k))
	f.Add(k.sign(f, with(nil)))
	f.Add(k.signAs(f, object{"kid": nil, "crit": []string{"x"}}, with(object{"aud": []any{1, "payments"}, "exp": 1e22})))
	f.Add("e30.e30.")
	v := newVerifier(f, jwt.Config{})
	f.Fuzz(func(t *testing.T, token string) {
		tok, err := v.Verify(token, by)
		if (tok == nil) == (err == nil) {
			t.Error(tok, err)
		}
		if tok != nil && tok.Claims["iss"] != "https://idp.example" {
			t.Error("a token of somebody else's holds")
		}
	})
}

// FuzzClaims signs what it makes: what comes after the signature is read too.
func FuzzClaims(f *testing.F) {
	k := newKey(f, "k1", "EdDSA")
	by := issuers(f, inline(f, k))
	for _, s := range []string{
		`{"iss":"https://idp.example","aud":"payments","exp":99999999999}`,
		`{"iss":"https://idp.example","aud":["payments"],"exp":99999999999.5,"nbf":-1,"a":{"b":[[{}]]}}`, "", "null", "[1",
	} {
		f.Add(s)
	}
	v := newVerifier(f, jwt.Config{})
	f.Fuzz(func(t *testing.T, payload string) {
		tok, err := v.Verify(k.raw(t, `{"alg":"EdDSA","kid":"k1"}`, payload), by)
		if (tok == nil) == (err == nil) {
			t.Error(tok, err)
		}
		if tok != nil && !time.Now().Before(tok.Until) {
			t.Error("a token holds that has expired")
		}
	})
}

func BenchmarkVerifyRemembered(b *testing.B) {
	k := newKey(b, "k1", "ES256")
	by := issuers(b, inline(b, k))
	v := newVerifier(b, jwt.Config{})
	token := k.sign(b, with(nil))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(token, by); err != nil {
			b.Fatal(err)
		}
	}
}

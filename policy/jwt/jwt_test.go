package jwt_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/policy/jwt"
)

func TestAlgorithms(t *testing.T) {
	all := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	v := newVerifier(t, jwt.Config{})
	for _, alg := range all {
		t.Run(alg, func(t *testing.T) {
			k := newKey(t, "k1", alg)
			s := inline(t, k)
			s.Algorithms = all
			tok, err := v.Verify(k.sign(t, with(nil)), issuers(t, s))
			if err != nil || tok.Claims["sub"] != "alice" {
				t.Fatal(tok, err)
			}
			s.Algorithms = []string{"RS256", "ES256"}
			if _, err = v.Verify(k.sign(t, with(nil)), issuers(t, s)); alg != "RS256" && alg != "ES256" {
				wantError(t, err, "algorithm that is not one of")
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	k, other := newKey(t, "k1", "ES256"), newKey(t, "k1", "ES256")
	r := newKey(t, "r1", "RS256")
	now := time.Now()
	v := newVerifier(t, jwt.Config{})
	good := k.sign(t, with(nil))
	part := strings.Split(good, ".")
	hs := object{"alg": "HS256"}
	for name, tt := range map[string]struct{ token, want string }{
		"empty":                  {"", "not a signed"},
		"one part":               {"abc", "not a signed"},
		"two parts":              {part[0] + "." + part[1], "not a signed"},
		"four parts":             {good + ".x", "not a signed"},
		"padding":                {good + "=", "not a signed"},
		"a nested object":        {`{"payload":"` + part[1] + `","protected":"` + part[0] + `","signature":"` + part[2] + `"}`, "not a signed"},
		"without signature":      {part[0] + "." + part[1] + ".", ""},
		"another signature":      {part[0] + "." + part[1] + "." + strings.Split(k.sign(t, with(object{"sub": "bob"})), ".")[2], "signature does not hold"},
		"another key, same name": {other.sign(t, with(nil)), "signature does not hold"},
		"unknown key":            {k.signAs(t, object{"kid": "k2"}, with(nil)), "does not publish"},
		"alg none":               {k.signAs(t, object{"alg": "none"}, with(nil)), ""},
		"alg of a shared secret": {k.signAs(t, hs, with(nil)), ""},
		"alg of another key":     {k.signAs(t, object{"alg": "RS256"}, with(nil)), "does not publish"},
		"no alg":                 {k.signAs(t, object{"alg": nil}, with(nil)), ""},
		"alg that is no text":    {k.raw(t, `{"alg":["ES256"],"kid":"k1"}`, "{}"), "not a signed"},
		"two algs":               {k.raw(t, `{"alg":"none","alg":"ES256","kid":"k1"}`, "{}"), "not a signed"},
		"critical extension":     {k.signAs(t, object{"crit": []string{"exp"}, "exp": 1}, with(nil)), "extension"},
		"unencoded payload":      {k.signAs(t, object{"b64": false}, with(nil)), "extension"},
		"own key in the header":  {other.signAs(t, object{"jwk": json.RawMessage(`{"kty":"EC"}`)}, with(nil)), ""},
		"logout token":           {k.signAs(t, object{"typ": "logout+jwt"}, with(nil)), "another type"},
		"another issuer":         {k.sign(t, with(object{"iss": "https://evil.example"})), "issuer is not one"},
		"issuer with slash":      {k.sign(t, with(object{"iss": "https://idp.example/"})), "issuer is not one"},
		"no issuer":              {k.sign(t, with(object{"iss": nil})), "issuer is not one"},
		"issuer that is a list":  {k.sign(t, with(object{"iss": []string{"https://idp.example"}})), "issuer is not one"},
		"another audience":       {k.sign(t, with(object{"aud": "shop"})), "another audience"},
		"no audience":            {k.sign(t, with(object{"aud": nil})), "another audience"},
		"no audience in a list":  {k.sign(t, with(object{"aud": []string{}})), "another audience"},
		"audience not text":      {k.sign(t, with(object{"aud": []any{"payments", 1}})), "not a signed"},
		"no expiry":              {k.sign(t, with(object{"exp": nil})), "no expiry"},
		"expiry null":            {k.raw(t, `{"alg":"ES256","kid":"k1"}`, `{"iss":"https://idp.example","aud":"payments","exp":null}`), "not a signed"},
		"expiry as text":         {k.sign(t, with(object{"exp": "9999999999"})), "not a signed"},
		"expiry without end":     {k.sign(t, with(object{"exp": 1e300})), "not a signed"},
		"expired":                {k.sign(t, with(object{"exp": now.Add(-2 * time.Minute).Unix()})), "expired"},
		"not yet":                {k.sign(t, with(object{"nbf": now.Add(2 * time.Minute).Unix()})), "not valid yet"},
		"from the future":        {k.sign(t, with(object{"iat": now.Add(2 * time.Minute).Unix()})), "issued in the future"},
		"a claim twice":          {k.raw(t, `{"alg":"ES256","kid":"k1"}`, `{"iss":"https://idp.example","aud":"payments","exp":9999999999,"role":"user","role":"admin"}`), "not a signed"},
		"claims that are a list": {k.raw(t, `{"alg":"ES256","kid":"k1"}`, `[]`), "not a signed"},
		"claims that are null":   {k.raw(t, `{"alg":"ES256","kid":"k1"}`, `null`), "not a signed"},
		"too large":              {k.sign(t, with(object{"x": strings.Repeat("x", jwt.MaxToken)})), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := v.Verify(tt.token, issuers(t, inline(t, k, r)))
			wantError(t, err, tt.want)
			if tok != nil {
				t.Error("a token came back")
			}
		})
	}
	// The test's own tokens must be good but for the one thing.
	if _, err := v.Verify(good, issuers(t, inline(t, k, r))); err != nil {
		t.Error(err)
	}
}

func TestVerifyAccepts(t *testing.T) {
	k, k2 := newKey(t, "k1", "ES256"), newKey(t, "k2", "ES256")
	now := time.Now()
	v := newVerifier(t, jwt.Config{})
	for name, token := range map[string]string{
		"several audiences":     k.sign(t, with(object{"aud": []string{"shop", "ledger"}})),
		"access token":          k.signAs(t, object{"typ": "application/at+JWT"}, with(nil)),
		"no type":               k.signAs(t, object{"typ": nil}, with(nil)),
		"no key named":          k2.signAs(t, object{"kid": nil}, with(nil)),
		"fractions of a second": k.sign(t, with(object{"exp": float64(now.Unix()) + 30.5})),
		"expired within skew":   k.sign(t, with(object{"exp": now.Add(-50 * time.Second).Unix()})),
		"not yet within skew":   k.sign(t, with(object{"nbf": now.Add(50 * time.Second).Unix(), "iat": now.Add(50 * time.Second).Unix()})),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := v.Verify(token, issuers(t, inline(t, k, k2))); err != nil {
				t.Error(err)
			}
		})
	}
}

// Two issuers keep apart: the key of one signs nothing in the name of the other.
func TestIssuersKeepApart(t *testing.T) {
	k, l := newKey(t, "k1", "EdDSA"), newKey(t, "k1", "EdDSA")
	two := inline(t, l)
	two.Issuer = "https://two.example"
	by := issuers(t, inline(t, k), two)
	v := newVerifier(t, jwt.Config{})
	for _, tt := range []struct {
		by  *key
		iss string
		ok  bool
	}{{k, "https://idp.example", true}, {l, "https://two.example", true}, {k, "https://two.example", false}, {l, "https://idp.example", false}} {
		if _, err := v.Verify(tt.by.sign(t, with(object{"iss": tt.iss})), by); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.iss, err)
		}
	}
}

func TestWeakAndSecretKeysAreOfNoUse(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip(err) // the Go release refuses to make one
	}
	weak := &key{"k1", "RS256", small}
	v := newVerifier(t, jwt.Config{})
	_, err = v.Verify(weak.sign(t, with(nil)), issuers(t, inline(t, weak)))
	wantError(t, err, "no key in it that tokens can be verified with")
}

// What the token says must come out as it stands: numbers are not rounded.
func TestClaimsAreExact(t *testing.T) {
	k := newKey(t, "k1", "EdDSA")
	v := newVerifier(t, jwt.Config{})
	tok, err := v.Verify(k.sign(t, with(object{"id": json.RawMessage("9007199254740993")})), issuers(t, inline(t, k)))
	if err != nil || tok.Claims["id"] != json.Number("9007199254740993") {
		t.Error(tok, err)
	}
}

func TestTokenIsForgottenWhenItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t, "k1", "EdDSA")
		s := inline(t, k)
		s.ClockSkew = "10s"
		by := issuers(t, s)
		v := newVerifier(t, jwt.Config{})
		end := time.Now().Add(time.Minute)
		token := k.sign(t, with(object{"exp": end.Unix()}))
		tok, err := v.Verify(token, by)
		if err != nil || !tok.Until.Equal(end.Add(10*time.Second)) {
			t.Fatal(tok, err)
		}
		again, err := v.Verify(token, by)
		if err != nil || again != tok {
			t.Error("it was not remembered", err)
		}
		wait(time.Until(tok.Until) - 1)
		if _, err := v.Verify(token, by); err != nil {
			t.Error(err)
		}
		wait(1)
		_, err = v.Verify(token, by)
		wantError(t, err, "expired")
	})
}

// wait lets virtual time pass.
func wait(d time.Duration) { <-time.After(d) }

// A token that was remembered does not outlive what it rested on.
func TestRememberedTokenNeedsItsIssuer(t *testing.T) {
	k := newKey(t, "k1", "EdDSA")
	v := newVerifier(t, jwt.Config{})
	token := k.sign(t, with(nil))
	if _, err := v.Verify(token, issuers(t, inline(t, k))); err != nil {
		t.Fatal(err)
	}
	narrow := inline(t, k)
	narrow.Audiences = []string{"ledger"}
	_, err := v.Verify(token, issuers(t, narrow))
	wantError(t, err, "another audience")
	_, err = v.Verify(token, issuers(t, inline(t, newKey(t, "k1", "EdDSA"))))
	wantError(t, err, "signature does not hold")
	_, err = v.Verify(token, nil)
	wantError(t, err, "issuer is not one")
}

func TestMemoryIsBounded(t *testing.T) {
	k := newKey(t, "k1", "EdDSA")
	by := issuers(t, inline(t, k))
	v := newVerifier(t, jwt.Config{})
	first := k.sign(t, with(nil))
	tok, err := v.Verify(first, by)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1200 { // 14 MB of tokens
		if _, err := v.Verify(k.sign(t, with(object{"i": i, "x": strings.Repeat("x", 9000)})), by); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := v.Verify(first, by); err != nil || again == tok {
		t.Error("nothing was forgotten", err)
	}
}

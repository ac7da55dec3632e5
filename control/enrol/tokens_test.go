package enrol_test

import (
	"bytes"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/enrol"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/internal/wire"
)

// TestUsesAreCounted: of many that use a token at once, as many get in as it allows.
func TestUsesAreCounted(t *testing.T) {
	p := newPlane(t, enrol.Settings{})
	value, tok := token(t, p.Gate, enrol.Spec{Services: []string{"web-*"}, Uses: 5})
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() { errs[i] = p.enrol(t.Context(), "web-"+string(rune('a'+i)), value, nil) })
	}
	wg.Wait()
	in := 0
	for _, err := range errs {
		if err == nil {
			in++
		} else if !strings.Contains(err.Error(), "as often as it can be") {
			t.Error(err)
		}
	}
	all, err := p.Tokens(t.Context())
	if err != nil || in != 5 || len(all) != 1 || all[0].ID != tok.ID || all[0].Used != 5 || len(all[0].Last) != 5 || all[0].State(time.Now()) != "used up" {
		t.Errorf("%d are in; %+v, %v", in, all, err)
	}
}

// TestTwoReplicas count the uses of one token together.
func TestTwoReplicas(t *testing.T) {
	a, db := newGate(t, enrol.Settings{})
	b, err := enrol.New(enrol.Config{TrustDomain: trustDomain.Name(), DB: db, Issue: func(string, string) (string, error) { return "ott", nil }})
	if err != nil {
		t.Fatal(err)
	}
	value, _ := token(t, a, enrol.Spec{Services: []string{"orders"}, Uses: 20})
	var wg sync.WaitGroup
	codes := make([]int, 60)
	for i := range codes {
		g := []*enrol.Gate{a, b}[i%2]
		wg.Go(func() { codes[i], _ = ask(t, g, wire.ProofToken, value, "orders", newCSR()) })
	}
	wg.Wait()
	in := 0
	for _, code := range codes {
		if code == http.StatusOK {
			in++
		} else if code != http.StatusUnauthorized {
			t.Errorf("status %d", code)
		}
	}
	if in != 20 {
		t.Errorf("%d are in, want 20", in)
	}
}

func TestTokenRefuses(t *testing.T) {
	g, db := newGate(t, enrol.Settings{})
	good, _ := token(t, g, enrol.Spec{Services: []string{"orders", "web-*"}, Uses: 0})
	late, _ := token(t, g, enrol.Spec{Services: []string{"orders"}, Uses: 1, Lifetime: time.Nanosecond})
	near, _ := token(t, g, enrol.Spec{Services: []string{"orders"}, Uses: 1, From: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}})
	far, _ := token(t, g, enrol.Spec{Services: []string{"orders"}, Uses: 1, From: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}})
	revoked, tok := token(t, g, enrol.Spec{Services: []string{"orders"}, Uses: 1})
	if _, err := g.Revoke(t.Context(), tok.ID); err != nil {
		t.Fatal(err)
	}
	used, _ := token(t, g, enrol.Spec{Services: []string{"orders"}, Uses: 1})
	first := newCSR()
	for name, c := range map[string]struct {
		token, service string
		status         int
		want           string
	}{
		"good":                    {good, "orders", 200, "ott for orders"},
		"good, by pattern":        {good, "web-7", 200, "ott for web-7"},
		"from where it may":       {near, "orders", 200, "ott"},
		"another service":         {good, "payments", 401, "for orders, web-*, not for payments"},
		"a reserved service":      {good, "mesh/control", 403, "reserved"},
		"no service":              {good, "", 403, "segment"},
		"expired":                 {late, "orders", 401, "expired at"},
		"from elsewhere":          {far, "orders", 401, "can't be used from 10.1.2.3"},
		"revoked":                 {revoked, "orders", 401, "was revoked at"},
		"another secret":          {good[:len(good)-1] + "_", "orders", 401, "not known"},
		"no secret":               {good[:strings.LastIndex(good, ".")+1], "orders", 401, "not known"},
		"cut off":                 {good[:len(wire.JoinTokenPrefix)+4], "orders", 401, "cut off"},
		"of another mesh":         {wire.JoinTokenPrefix + "abcdefghij.ABCDEFGHIJKLMNOP", "orders", 401, "not known"},
		"a token of another kind": {"e30.e30.e30", "orders", 401, "cut off"},
	} {
		if status, text := ask(t, g, wire.ProofToken, c.token, c.service, newCSR()); status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %s, want %d and %q", name, status, text, c.status, c.want)
		}
	}
	// The same request again, as after an answer that was lost, is the same use.
	for range 2 {
		if status, text := ask(t, g, wire.ProofToken, used, "orders", first); status != http.StatusOK {
			t.Errorf("%d %s", status, text)
		}
	}
	if status, text := ask(t, g, wire.ProofToken, used, "orders", newCSR()); status != http.StatusUnauthorized || !strings.Contains(text, "used already") {
		t.Errorf("used: %d %s", status, text)
	}
	secret := []byte(good[strings.LastIndex(good, ".")+1:])
	actions := map[string]int{}
	for r, err := range db.All(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(r.Value, secret) || strings.Contains(r.Key, string(secret)) {
			t.Errorf("a record of kind %s holds the secret", r.Kind)
		}
	}
	for e, err := range store.AuditLog(t.Context(), db) {
		if err != nil {
			t.Fatal(err)
		}
		actions[e.Action]++
	}
	if actions["token created"] != 6 || actions["token revoked"] != 1 || actions["token used"] != 4 {
		t.Errorf("the audit log has %v", actions)
	}
}

func TestSpecRefused(t *testing.T) {
	g, _ := newGate(t, enrol.Settings{})
	for _, s := range []enrol.Spec{
		{},
		{Services: []string{"orders"}},
		{Services: []string{"orders"}, Lifetime: 10 * enrol.MaxTokenLifetime},
		{Services: []string{"orders"}, Lifetime: time.Hour, Uses: -1},
		{Services: []string{"Orders"}, Lifetime: time.Hour},
		{Services: []string{"a*b"}, Lifetime: time.Hour},
		{Services: []string{"mesh/*"}, Lifetime: time.Hour},
		{Services: []string{""}, Lifetime: time.Hour},
		{Services: []string{"orders"}, Lifetime: time.Hour, From: []netip.Prefix{{}}},
		{Services: []string{"orders"}, Lifetime: time.Hour, From: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8")}},
	} {
		if _, _, err := g.Create(t.Context(), s); err == nil {
			t.Errorf("%+v was accepted", s)
		}
	}
	if _, err := g.Revoke(t.Context(), "nothing"); err == nil || !strings.Contains(err.Error(), `"nothing"`) {
		t.Errorf("revoking what is not there: %v", err)
	}
}

// FuzzAsk: whatever a stranger sends is refused, and nothing breaks.
func FuzzAsk(f *testing.F) {
	g, _ := newGate(f, enrol.Settings{})
	value, _ := token(f, g, enrol.Spec{Services: []string{"orders"}, Uses: 1})
	const csr = `"csr":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`
	f.Add(`{"kind":"token","proof":"` + value[:20] + `","service":"orders",` + csr + `}`)
	f.Add(`{"kind":"token","proof":"mjt1.x.y","service":"orders",` + csr + `}`)
	f.Add(`{"kind":"kubernetes","proof":"e30.e30.e30","service":"orders",` + csr + `}`)
	f.Add(`{"kind":"x509","proof":"e30.e30.e30","service":"a/b",` + csr + `}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, body string) {
		if status, text := post(t, g, []byte(body)); status < 400 || status >= 500 {
			t.Errorf("%q: %d %s", body, status, text)
		}
	})
}

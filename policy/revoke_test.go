package policy_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	revokedAt = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	revokedTo = revokedAt.Add(24 * time.Hour)
)

// openRevoking signs and opens a bundle with these revocations, and returns its engine.
func openRevoking(t *testing.T, version uint64, revoked ...policy.Revocation) *policy.Engine {
	t.Helper()
	data, err := policy.Sign(&policy.Bundle{TrustDomain: prod, Version: version, Issued: revokedAt, Revoked: revoked}, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	b, err := policy.Open(data, publicKeys(testKey(1)), prod)
	if err != nil {
		t.Fatal(err)
	}
	e, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func certificate(serial int64, authority byte, notBefore time.Time) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(serial), AuthorityKeyId: []byte{authority}, NotBefore: notBefore}
}

func TestRevoked(t *testing.T) {
	orders := spiffeid.RequireFromString("spiffe://prod.example/orders")
	shop := spiffeid.RequireFromString("spiffe://prod.example/shop")
	e := openRevoking(t, 7,
		policy.Revocation{Serial: "ab", Authority: "01", Expires: revokedTo, Reason: "the key was on a stolen disk"},
		policy.Revocation{Serial: "ab", Authority: "02", Expires: revokedTo},
		policy.Revocation{Serial: "cd", Expires: revokedTo},
		policy.Revocation{Serial: "0", Expires: revokedTo},
		policy.Revocation{ID: shop.String(), IssuedBefore: revokedAt, Expires: revokedTo},
		policy.Revocation{ID: shop.String(), IssuedBefore: revokedAt.Add(-time.Hour), Expires: revokedTo}, // the later one counts
	)
	intermediate := certificate(0xee, 9, revokedAt)
	for _, tt := range []struct {
		name  string
		id    spiffeid.ID
		chain []*x509.Certificate
		want  bool
	}{
		{"its serial and authority", orders, []*x509.Certificate{certificate(0xab, 1, revokedAt), intermediate}, true},
		{"the other authority's", orders, []*x509.Certificate{certificate(0xab, 2, revokedAt), intermediate}, true},
		{"a third authority's", orders, []*x509.Certificate{certificate(0xab, 3, revokedAt), intermediate}, false},
		{"any authority's", orders, []*x509.Certificate{certificate(0xcd, 3, revokedAt)}, true},
		{"serial zero", orders, []*x509.Certificate{certificate(0, 3, revokedAt)}, true},
		{"another serial", orders, []*x509.Certificate{certificate(0xabc, 1, revokedAt), intermediate}, false},
		{"its intermediate", orders, []*x509.Certificate{certificate(1, 1, revokedAt), certificate(0xcd, 9, revokedAt)}, true},
		{"an ID's of before", shop, []*x509.Certificate{certificate(1, 1, revokedAt.Add(-time.Second))}, true},
		{"an ID's of that moment", shop, []*x509.Certificate{certificate(1, 1, revokedAt)}, true},
		{"an ID's of later", shop, []*x509.Certificate{certificate(1, 1, revokedAt.Add(time.Second))}, false},
		{"another ID's of before", orders, []*x509.Certificate{certificate(1, 1, revokedAt.Add(-time.Second))}, false},
		{"another trust domain's", spiffeid.RequireFromString("spiffe://prod.example.evil/shop"), []*x509.Certificate{certificate(1, 1, revokedAt)}, false},
		{"nothing", shop, nil, false},
	} {
		err := e.Revoked(tt.id, tt.chain)
		var revoked *policy.RevokedError
		if got := errors.As(err, &revoked); got != tt.want || (err != nil) != tt.want {
			t.Errorf("%s: %v, want revoked %v", tt.name, err, tt.want)
		} else if got && (revoked.ID != tt.id || revoked.Version != 7) {
			t.Errorf("%s: %+v", tt.name, revoked)
		}
	}
	err := e.Revoked(orders, []*x509.Certificate{certificate(0xab, 1, revokedAt)})
	if want := "certificate ab of spiffe://prod.example/orders is revoked (rules v7): the key was on a stolen disk"; fmt.Sprint(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
	var none *policy.Engine
	if err := none.Revoked(orders, []*x509.Certificate{certificate(0xab, 1, revokedAt)}); err != nil {
		t.Errorf("without rules: %v", err)
	}
}

func TestSameRevocations(t *testing.T) {
	one := policy.Revocation{Serial: "ab", Expires: revokedTo}
	two := policy.Revocation{ID: "spiffe://prod.example/shop", IssuedBefore: revokedAt, Expires: revokedTo}
	none := openRevoking(t, 1)
	if !none.SameRevocations(nil) || !none.SameRevocations(openRevoking(t, 2)) {
		t.Error("none is not the same as none")
	}
	a := openRevoking(t, 1, one, two)
	if !a.SameRevocations(openRevoking(t, 2, one, two)) {
		t.Error("the same list at another version is another one")
	}
	for _, other := range []*policy.Engine{nil, none, openRevoking(t, 3, one), openRevoking(t, 3, two, one)} {
		if a.SameRevocations(other) {
			t.Errorf("two revocations are the same as those of v%d", other.Version())
		}
	}
}

func TestRevocationsThatAreRefused(t *testing.T) {
	many := make([]policy.Revocation, policy.MaxRevocations+1)
	for i := range many {
		many[i] = policy.Revocation{Serial: fmt.Sprintf("%x", i), Expires: revokedTo}
	}
	for field, revoked := range map[string][]policy.Revocation{
		"revoked[0].serial":          {{Expires: revokedTo}},
		"revoked[1].serial":          {{Serial: "ab", Expires: revokedTo}, {Serial: "AB", Expires: revokedTo}},
		"revoked[0].serial: \"0a":    {{Serial: "0a", Expires: revokedTo}},
		"revoked[0].serial: \"-":     {{Serial: "-1", Expires: revokedTo}},
		"revoked[0].serial: \"1":     {{Serial: strings.Repeat("1", 41), Expires: revokedTo}},
		"revoked[0].serial: a re":    {{Serial: "ab", ID: "spiffe://prod.example/shop", IssuedBefore: revokedAt, Expires: revokedTo}},
		"revoked[0].authority":       {{Serial: "ab", Authority: "abc", Expires: revokedTo}},
		"revoked[0].authority: g":    {{ID: "spiffe://prod.example/shop", Authority: "ab", IssuedBefore: revokedAt, Expires: revokedTo}},
		"revoked[0].id":              {{ID: "spiffe://Prod.example/shop", IssuedBefore: revokedAt, Expires: revokedTo}},
		"revoked[0].id: \"spiffe":    {{ID: "spiffe://prod.example", IssuedBefore: revokedAt, Expires: revokedTo}},
		"revoked[0].issuedBefore":    {{ID: "spiffe://prod.example/shop", Expires: revokedTo}},
		"revoked[0].issuedBefore: g": {{Serial: "ab", IssuedBefore: revokedAt, Expires: revokedTo}},
		"revoked[0].expires":         {{Serial: "ab"}},
		"revoked[0].reason":          {{Serial: "ab", Expires: revokedTo, Reason: strings.Repeat("x", 257)}},
		"revoked: has 10001":         many,
	} {
		_, err := policy.Sign(&policy.Bundle{TrustDomain: prod, Version: 1, Issued: revokedAt, Revoked: revoked}, testKey(1))
		if err == nil || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("want an error about %s, got %v", field, err)
		}
	}
	const payload = `{"trustDomain":"prod.example","version":3,"issued":"2026-01-02T03:04:05Z","documents":[],"revoked":[%s]}`
	for text, want := range map[string]string{
		`{"serial":"ab","expires":"soon"}`:                             `revoked[0].expires: "soon" is not a time`,
		`{"serial":"ab","expires":"2026-01-02T03:04:05Z","since":"x"}`: "unknown field",
		`{"serial":"ab","serial":"ac"}`:                                "twice",
		`null`:                                                         "has no value",
		`"ab"`:                                                         "want object",
		strings.Repeat(`{},`, policy.MaxRevocations) + `{}`: "at most 10000",
	} {
		_, err := policy.Open(signPayload(t, fmt.Sprintf(payload, text), testKey(1)), publicKeys(testKey(1)), prod)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, want %q", text, err, want)
		}
	}
}

// A member of before there were revocations knows the other fields alone, and refuses what it does not know: it must not get a
// bundle that it would take without them, nor refuse one that has none.
func TestBundleWithoutRevocationsHasNoFieldForThem(t *testing.T) {
	for want, revoked := range map[bool][]policy.Revocation{
		false: {}, true: {{Serial: "ab", Expires: revokedTo}},
	} {
		data, err := policy.Sign(&policy.Bundle{TrustDomain: prod, Version: 1, Issued: revokedAt, Revoked: revoked}, testKey(1))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(data), `"revoked"`); got != want {
			t.Errorf("%d revocations: the field is there: %v\n%s", len(revoked), got, data)
		}
	}
}

func TestRevocationsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	at := func(cfg *policy.SyncConfig) { cfg.Dir = dir }
	data, err := policy.Sign(&policy.Bundle{TrustDomain: prod, Version: 1, Issued: revokedAt,
		Revoked: []policy.Revocation{{Serial: "ab", Expires: revokedTo}}}, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	s := newSyncer(t, at)
	if err := s.Apply(data); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	orders := spiffeid.RequireFromString("spiffe://prod.example/orders")
	if err := newSyncer(t, at).Engine().Revoked(orders, []*x509.Certificate{certificate(0xab, 1, revokedAt)}); err == nil {
		t.Error("the last good rules came back without their revocation")
	}
}

package policy_test

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/intramesh/mesh/policy"
)

const okpKeys = `{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}`

// of returns a document of a kind, with the JSON of its spec.
func of(kind, name, spec string) string {
	return fmt.Sprintf(`{"apiVersion":"mesh/v1","kind":%q,"metadata":{"name":%q},"spec":{%s}}`, kind, name, spec)
}

func TestParseRefusesOtherKinds(t *testing.T) {
	issuer := func(fields string) string {
		return of("TokenIssuer", "i", `"issuer":"https://idp.example","audiences":["a"],"jwksURL":"https://idp.example/k"`+fields)
	}
	keys := func(s string) string {
		return of("TokenIssuer", "i", `"issuer":"x","audiences":["a"],"jwks":"`+s+`"`)
	}
	for name, tt := range map[string]struct{ in, want string }{
		"unknown kind":               {of("Route", "r", ""), `test.json:1:32: kind: want "Authorization", "Default" or "TokenIssuer", found "Route"`},
		"kind in lower case":         {of("default", "r", ""), "kind: want"},
		"another kind's field":       {of("Default", "d", `"service":"*","verdict":"allow","rules":[]`), "spec.rules: unknown field; the fields here are service, verdict, denials"},
		"no spec":                    {`{"apiVersion":"mesh/v1","kind":"Default","metadata":{"name":"d"}}`, "spec.verdict: want allow or deny"},
		"kind twice":                 {`{"apiVersion":"mesh/v1","kind":"Authorization","kind":"Default","metadata":{"name":"d"},"spec":{"service":"*","verdict":"deny"}}`, "kind: the field is there twice"},
		"default that audits":        {of("Default", "d", `"service":"*","verdict":"audit"`), "spec.verdict: want allow or deny, found"},
		"denials that lie":           {of("Default", "d", `"service":"*","denials":"no"`), `spec.denials: want explained or bare, found "no"`},
		"default for nothing":        {of("Default", "d", `"verdict":"allow"`), "spec.service"},
		"default for a suffix":       {of("Default", "d", `"service":"*x","verdict":"allow"`), "spec.service"},
		"two defaults":               {byDefault("d", "a/*", "allow") + "\n" + byDefault("e", "a/*", "deny"), `test.json:2:84: spec.service: the default for "a/*" is taken by the document on line 1`},
		"a name in two kinds":        {byDefault("d", "*", "allow") + "\n" + issuerIn("d", "x", ""), `metadata.name: the name "d" is taken`},
		"an issuer twice":            {issuerIn("i", "x", "") + "\n" + issuerIn("j", "x", "X-Token"), `spec.issuer: the issuer "x" is taken by the document on line 1`},
		"no issuer":                  {of("TokenIssuer", "i", `"audiences":["a"],"jwksURL":"https://x/k"`), "spec.issuer: is missing"},
		"no audiences":               {of("TokenIssuer", "i", `"issuer":"x","jwksURL":"https://x/k"`), "spec.audiences: is missing"},
		"empty audiences":            {of("TokenIssuer", "i", `"issuer":"x","audiences":[],"jwksURL":"https://x/k"`), "spec.audiences"},
		"an empty audience":          {of("TokenIssuer", "i", `"issuer":"x","audiences":[""],"jwksURL":"https://x/k"`), "spec.audiences[0]: is missing"},
		"no keys":                    {of("TokenIssuer", "i", `"issuer":"x","audiences":["a"]`), "spec: want one of jwksURL and jwks"},
		"keys twice":                 {issuer(`,"jwks":"` + okpKeys + `"`), "spec: want one of jwksURL and jwks"},
		"keys over http":             {of("TokenIssuer", "i", `"issuer":"x","audiences":["a"],"jwksURL":"http://localhost/k"`), "spec.jwksURL: want an https URL"},
		"keys from a file":           {of("TokenIssuer", "i", `"issuer":"x","audiences":["a"],"jwksURL":"file:///etc/k"`), "spec.jwksURL: want an https URL"},
		"keys with a password":       {of("TokenIssuer", "i", `"issuer":"x","audiences":["a"],"jwksURL":"https://a:b@x/k"`), "spec.jwksURL: want an https URL"},
		"keys as an object":          {of("TokenIssuer", "i", `"issuer":"x","audiences":["a"],"jwks":{}`), "spec.jwks: want string, found object"},
		"keys that are none":         {keys("x"), "spec.jwks: is not a JSON Web Key Set"},
		"an empty set":               {keys(`{\"keys\":[]}`), "spec.jwks: has no RSA, EC or OKP key"},
		"a shared secret":            {keys(`{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}`), "key 0 is a secret one"},
		"a private key":              {keys(`{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AA\",\"d\":\"AA\"}]}`), "key 0 is a secret one"},
		"a large set":                {keys(strings.Repeat(" ", policy.MaxJWKS+1)), "at most 65536 are accepted"},
		"header host":                {issuer(`,"header":"Host"`), "spec.header"},
		"header that is taken out":   {issuer(`,"header":"x-forwarded-client-cert"`), "spec.header"},
		"header with a space":        {issuer(`,"header":"x token"`), "spec.header"},
		"skew without unit":          {issuer(`,"clockSkew":"60"`), "spec.clockSkew"},
		"skew too large":             {issuer(`,"clockSkew":"6m"`), "spec.clockSkew"},
		"skew below zero":            {issuer(`,"clockSkew":"-1s"`), "spec.clockSkew"},
		"algorithm none":             {issuer(`,"algorithms":["none"]`), "spec.algorithms[0]"},
		"algorithm of a secret":      {issuer(`,"algorithms":["ES256","HS256"]`), "spec.algorithms[1]"},
		"algorithm in lower case":    {issuer(`,"algorithms":["es256"]`), "spec.algorithms[0]"},
		"no algorithms":              {issuer(`,"algorithms":[]`), "spec.algorithms"},
		"an issuer of another field": {issuer(`,"jwksUri":"https://x"`), "unknown field; the fields here are issuer, audiences, jwksURL"},
	} {
		t.Run(name, func(t *testing.T) {
			docs, err := policy.Parse("test.json", []byte(tt.in))
			if _, ok := errors.AsType[*policy.ParseError](err); !ok || docs != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestOtherKindsTravelInBundles(t *testing.T) {
	docs := parse(t, byDefault("d", "billing/*", "allow"), anyIssuer,
		of("TokenIssuer", "all", `"issuer":"x","audiences":["a","b"],"jwks":"`+okpKeys+`","header":"X-Token","clockSkew":"0s","algorithms":["PS512"]`),
		doc("p", "payments", "allow", `"rules":[{}]`))
	data, err := policy.Sign(&policy.Bundle{TrustDomain: prod, Version: 1, Documents: docs}, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	b, err := policy.Open(data, []ed25519.PublicKey{publicKeys(testKey(1))[0]}, prod)
	if err != nil || !reflect.DeepEqual(b.Documents, docs) {
		t.Errorf("%+v, %v", b, err)
	}
	for _, d := range docs {
		raw, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var plain policy.Document
		if err := json.Unmarshal(raw, &plain); err != nil || !reflect.DeepEqual(plain, d) {
			t.Errorf("%s: %+v, %v", raw, plain, err)
		}
	}
	e, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	got := e.Issuers()
	if len(got) != 2 || got[0].ClockSkew.String() != "1m0s" || strings.Join(got[0].Algorithms, " ") != "ES256 RS256 EdDSA" || got[0].Header != "authorization" ||
		got[1].ClockSkew != 0 || got[1].Header != "x-token" || got[0].Digest == got[1].Digest {
		t.Errorf("%+v", got)
	}
}

func TestSignRefusesWhatWouldBeDropped(t *testing.T) {
	d := parse(t, byDefault("d", "*", "allow"))[0]
	d.Kind = policy.Kind
	d.Spec = policy.Spec{Service: "*", Action: policy.ActionAllow}
	_, err := policy.Sign(&policy.Bundle{TrustDomain: prod, Version: 1, Documents: []policy.Document{d}}, testKey(1))
	if err == nil || !strings.Contains(err.Error(), "spec: is that of another kind") {
		t.Error(err)
	}
	var many []policy.Document
	for i := range policy.MaxIssuers + 1 {
		many = append(many, parse(t, issuerIn(fmt.Sprint("i", i), fmt.Sprint("x", i), ""))...)
	}
	if _, err := policy.Static(prod, many...); err == nil {
		t.Error("too many issuers were accepted")
	}
}

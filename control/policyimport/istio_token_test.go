package policyimport_test

import (
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/policyimport"
	"github.com/intramesh/mesh/policy"
)

// authentication is a RequestAuthentication of namespace foo for the app, "" for all of the namespace.
func authentication(app, rules string) string {
	selector := ""
	if app != "" {
		selector = "  selector: {matchLabels: {app: " + app + "}}\n"
	}
	return "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: jwt, namespace: foo}\nspec:\n" + selector + "  jwtRules: " + rules + "\n"
}

// TestIstioTokens carries over what a TokenIssuer can say, and says of the rest why not.
func TestIstioTokens(t *testing.T) {
	const (
		idp   = `issuer: https://idp.example, audiences: [a, b], jwksUri: "https://idp.example/keys"`
		keys  = `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
		admin = `[{when: [{key: "request.auth.claims[groups]", values: [admin]}]}]`
		by    = `[{when: [{key: "request.headers[x-group]", values: [admin]}]}]`
	)
	claims := istioDoc("ALLOW", admin)
	whole := policy.TokenIssuerSpec{Issuer: "https://idp.example", Audiences: []string{"a", "b"}, JWKSURL: "https://idp.example/keys"}
	inHeader := whole
	inHeader.Header = "x-token"
	inline := policy.TokenIssuerSpec{Issuer: "x", Audiences: []string{"a"}, JWKS: keys}
	for name, c := range map[string]struct {
		text   string
		want   []policy.TokenIssuerSpec
		note   string // a part of a note
		widens bool
	}{
		"all of it":               {claims + authentication("httpbin", `[{`+idp+`, forwardOriginalToken: true}]`), []policy.TokenIssuerSpec{whole}, "in.yaml:14: a request with a token that does not hold", false},
		"keys inline":             {claims + authentication("httpbin", `[{issuer: x, audiences: [a], jwks: '`+keys+`'}]`), []policy.TokenIssuerSpec{inline}, "", false},
		"two issuers":             {claims + authentication("httpbin", `[{`+idp+`}, {issuer: x, audiences: [a], jwks: '`+keys+`'}]`), []policy.TokenIssuerSpec{whole, inline}, "", false},
		"nobody looks at claims":  {authentication("httpbin", `[{`+idp+`}]`), []policy.TokenIssuerSpec{whole}, "", false},
		"for all services":        {claims + strings.Replace(authentication("", `[{`+idp+`}]`), "foo", "istio-system", 1), []policy.TokenIssuerSpec{whole}, "", false},
		"for other services":      {claims + authentication("web", `[{`+idp+`}]`), nil, "its tokens would count for istio.foo.p too", false},
		"for others as well":      {claims + authentication("web", `[{`+idp+`}]`) + authentication("httpbin", `[{`+idp+`}]`), []policy.TokenIssuerSpec{whole}, "", false},
		"a deny looks elsewhere":  {istioDoc("DENY", `[{when: [{key: "request.auth.claims[groups]", notValues: [admin]}]}]`) + authentication("web", `[{`+idp+`}]`), nil, "its tokens would count", false},
		"another says otherwise":  {claims + authentication("httpbin", `[{`+idp+`}, {issuer: https://idp.example, audiences: [c], jwksUri: "https://idp.example/keys"}]`), []policy.TokenIssuerSpec{whole}, "in.yaml:14 says something else", false},
		"for a part of a service": {claims + strings.Replace(authentication("httpbin", `[{`+idp+`}]`), "app: httpbin}", "app: httpbin, version: v1}", 1), nil, "a part of httpbin", false},
		"a namespace":             {claims + authentication("", `[{`+idp+`}]`), nil, "all services of namespace foo", false},
		"a gateway":               {claims + strings.Replace(authentication("", `[{`+idp+`}]`), "spec:\n", "spec:\n  targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: web}]\n", 1), nil, "no service of this mesh", false},
		"no audiences":            {authentication("httpbin", `[{issuer: x, jwksUri: "https://idp.example/keys"}]`), nil, "without audiences", false},
		"no keys":                 {authentication("httpbin", `[{issuer: x, audiences: [a]}]`), nil, "there is no jwksUri", false},
		"both kinds of keys":      {authentication("httpbin", `[{`+idp+`, jwks: '`+keys+`'}]`), nil, "want one of jwksURL and jwks", false},
		"keys over http":          {authentication("httpbin", `[{issuer: x, audiences: [a], jwksUri: "http://idp.example/keys"}]`), nil, "want an https URL", false},
		"no issuer":               {authentication("httpbin", `[{audiences: [a], jwksUri: "https://idp.example/keys"}]`), nil, "is missing", false},
		"a field nobody knows":    {authentication("httpbin", `[{`+idp+`, spaceDelimitedClaims: [roles]}]`), nil, "spaceDelimitedClaims can't be said", false},
		"a field of the object":   {strings.Replace(authentication("httpbin", `[{`+idp+`}]`), "spec:\n", "spec:\n  colour: red\n", 1), nil, "colour is not known", false},
		"a header":                {authentication("httpbin", `[{`+idp+`, fromHeaders: [{name: X-Token}]}]`), []policy.TokenIssuerSpec{inHeader}, "", false},
		"a header with a scheme":  {authentication("httpbin", `[{`+idp+`, fromHeaders: [{name: x-old, prefix: "JWT "}, {name: x-token, prefix: "Bearer "}, {name: y}]}]`), []policy.TokenIssuerSpec{inHeader}, "fromHeaders: x-old: the token can only follow", false},
		"no header that fits":     {authentication("httpbin", `[{`+idp+`, fromHeaders: [{name: authorization, prefix: "JWT "}]}]`), nil, "none of its headers", false},
		"a header not for it":     {authentication("httpbin", `[{`+idp+`, fromHeaders: [{name: cookie}]}]`), nil, "can't carry a token", false},
		"elsewhere as well":       {authentication("httpbin", `[{`+idp+`, fromParams: [t], fromCookies: [t], timeout: 1s}]`), []policy.TokenIssuerSpec{whole}, "fromCookies: a token is only looked for in a header", false},
		"makes a header":          {authentication("httpbin", `[{`+idp+`, outputPayloadToHeader: x-payload}]`), []policy.TokenIssuerSpec{whole}, "nobody makes the header x-payload", false},
		"and a policy reads it":   {istioDoc("ALLOW", by) + authentication("httpbin", `[{`+idp+`, outputClaimToHeaders: [{header: X-Group, claim: groups}]}]`), []policy.TokenIssuerSpec{whole}, "istio.foo.p looks at the header x-group", true},
		"another version":         {strings.Replace(authentication("httpbin", `[{`+idp+`}]`), "io/v1", "io/v3", 1), nil, "passed over", false},
	} {
		r := istio(t, c.text, policyimport.IstioConfig{})
		var got []policy.TokenIssuerSpec
		for _, d := range r.Documents {
			if d.TokenIssuer != nil {
				got = append(got, *d.TokenIssuer)
			}
		}
		same := len(got) == len(c.want)
		for i := range got {
			same = same && got[i].Issuer == c.want[i].Issuer && strings.Join(got[i].Audiences, " ") == strings.Join(c.want[i].Audiences, " ") &&
				got[i].JWKS == c.want[i].JWKS && got[i].JWKSURL == c.want[i].JWKSURL && got[i].Header == c.want[i].Header
		}
		if !same || r.Widens() != c.widens || !strings.Contains(strings.Join(noteTexts(r), "\n"), c.note) {
			t.Errorf("%s: %+v, widens %v, want %+v, %v with %q:\n%s", name, got, r.Widens(), c.want, c.widens, c.note, strings.Join(noteTexts(r), "\n"))
		}
	}
}

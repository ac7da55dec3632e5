package main_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

const tokenRules = `apiVersion: mesh/v1
kind: Authorization
metadata: {name: admins}
spec:
  service: payments
  action: allow
  rules:
  - from: [{services: [orders]}]
    to:
    - {methods: [POST], paths: ["/refund"]}
    - grpc: ["pay.v1.Payments/Refund"]
    when:
    - {key: "request.jwt.claim.groups[]", values: [admin]}
    - {key: "request.jwt.claim[x.y].level", values: ["5"]}
---
apiVersion: mesh/v1
kind: TokenIssuer
metadata: {name: idp}
spec:
  issuer: https://idp.example
  audiences: [payments]
  jwks: |
    {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "%s"}]}
`

// signed returns a token of the issuer.
func signed(t *testing.T, key ed25519.PrivateKey, expiry time.Time, groups string) string {
	t.Helper()
	enc := base64.RawURLEncoding
	payload := fmt.Sprintf(`{"iss":"https://idp.example","aud":"payments","exp":%d,"groups":%s,"x.y":{"level":5}}`, expiry.Unix(), groups)
	text := enc.EncodeToString([]byte(`{"alg":"EdDSA","kid":"k"}`)) + "." + enc.EncodeToString([]byte(payload))
	return text + "." + enc.EncodeToString(ed25519.Sign(key, []byte(text)))
}

func TestExplainWithClaims(t *testing.T) {
	dir := newPlane(t)
	serve(t, dir)
	t.Chdir(dir)
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	must(t, dir, fmt.Sprintf(tokenRules, base64.RawURLEncoding.EncodeToString(public)), "policy", "apply", "-f", "-")
	good := signed(t, key, time.Now().Add(time.Hour), `["users","admin"]`)
	for name, token := range map[string]string{
		"good.jwt": "Bearer " + good + "\n", "old.jwt": signed(t, key, time.Now().Add(-time.Hour), `["admin"]`), "user.jwt": signed(t, key, time.Now().Add(time.Hour), `"users"`),
	} {
		if err := os.WriteFile(name, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const refund = "explain orders payments POST /refund "
	for _, c := range []struct {
		args, stdin, stdout, stderr string
		code                        int
	}{
		{args: refund, code: 1, stdout: "the request has no token"},
		{args: refund + "--claim groups=users --claim groups=admin --claim [x.y].level=5", stdout: "allow by admins[0]"},
		{args: refund + "--claim groups=users --claim [x.y].level=5", code: 1, stdout: "the claim does not match"},
		{args: refund + "--token good.jwt", stdout: "allow by admins[0]"},
		{args: refund + "--token -", stdin: good, stdout: "allow by admins[0]"},
		{args: refund + "--token user.jwt", code: 1, stdout: "the claim does not match"},
		{args: refund + "--token old.jwt", code: 1, stdout: "the request has no token", stderr: "the token does not count: "},
		{args: refund + "--token none.jwt", code: 4, stderr: "none.jwt"},
		{args: "explain orders payments --grpc pay.v1.Payments/Refund --token good.jwt", stdout: "allow by admins[0]"},
		{args: "explain orders payments POST /other --token good.jwt", code: 1, stdout: "the path does not match"},
		{args: "explain orders payments --grpc pay.v1.Payments/Other --token good.jwt", code: 1, stdout: "the gRPC method does not match"},
		{args: "explain orders payments --claim groups=admin", code: 2, stderr: "a connection has no token"},
		{args: refund + "--claim groups=admin --token good.jwt", code: 2, stderr: "none of the others can be"},
		{args: refund + "--claim groups", code: 2, stderr: `--claim "groups": want NAME=VALUE`},
		{args: refund + "--claim a=1 --claim a.b=2", code: 2, stderr: "a has a value already"},
		{args: refund + "--claim a.b=1 --claim a=2", code: 2, stderr: "a has members already"},
		{args: refund + "--claim [a=2", code: 2, stderr: "a ] is missing"},
	} {
		code, out, errs := mesh(t, dir, c.stdin, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.stdout) || !strings.Contains(errs, c.stderr) || strings.Contains(out+errs, good) {
			t.Errorf("mesh %s: exit code %d, want %d\nstdout: %s\nwant: %s\nstderr: %s\nwant: %s", c.args, code, c.code, out, c.stdout, errs, c.stderr)
		}
	}
}

package main_test

import (
	"strings"
	"testing"
)

const otherKinds = `apiVersion: mesh/v1
kind: Default
metadata: {name: open}
spec: {service: "billing/*", verdict: allow}
---
apiVersion: mesh/v1
kind: TokenIssuer
metadata: {name: idp}
spec:
  issuer: https://idp.example
  audiences: [payments]
  jwks: |
    {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}
`

// Every kind of document goes in, comes out as it was, and has a name that no other has.
func TestOtherKinds(t *testing.T) {
	dir := newPlane(t)
	serve(t, dir)
	for _, c := range []struct {
		args, stdin, stdout, stderr string
		code                        int
	}{
		{args: "policy apply -f -", stdin: otherKinds, stdout: "rules v2\n"},
		{args: "policy list", stdout: "open  billing/*  allow by default"},
		{args: "policy list", stdout: "tokens of https://idp.example"},
		{args: "policy get open", stdout: "kind: Default\nmetadata:\n  name: open\nspec:\n  service: billing/*\n  verdict: allow\n"},
		{args: "explain orders billing/invoices", stdout: "allow by open: no rule decides"},
		{args: "policy apply -f -", stdin: strings.Replace(rules, "payments-callers", "idp", 1), stdout: "updated"},
		{args: "policy apply -f -", stdin: strings.Replace(otherKinds, "name: open", "name: open2", 1), stderr: `the default for "billing/*" is taken`, code: 4},
		{args: "policy delete open", stdout: "open  deleted\nrules v4\n"},
	} {
		code, out, errs := mesh(t, dir, c.stdin, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.stdout) || !strings.Contains(errs, c.stderr) {
			t.Errorf("mesh %s: exit code %d, want %d\nstdout: %s\nwant: %s\nstderr: %s\nwant: %s", c.args, code, c.code, out, c.stdout, errs, c.stderr)
		}
	}
	for _, name := range []string{"open", "idp"} {
		if code, _, errs := mesh(t, dir, otherKinds, "policy", "apply", "-f", "-"); code != 0 {
			t.Fatal(errs)
		}
		if code, out, errs := mesh(t, dir, must(t, dir, "", "policy", "get", name), "policy", "apply", "-f", "-"); code != 0 || !strings.Contains(out, "unchanged") {
			t.Errorf("round trip of %s: %d %s %s", name, code, out, errs)
		}
	}
}

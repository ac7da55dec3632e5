package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/policyimport"
	"github.com/intramesh/mesh/control/policytest"
	"github.com/intramesh/mesh/control/rulesfile"
	"github.com/intramesh/mesh/policy"
)

const tests = `- {name: may charge, from: orders, to: payments, method: POST, path: /charge, expect: allow, policy: payments-callers}
- {name: may not refund, from: orders, to: payments, method: POST, path: /refund, expect: deny}
- {from: spiffe://elsewhere.example/orders, ip: 192.0.2.7, to: "payments:admin", expect: deny}
`

const istioPolicy = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: foo}
spec:
  selector: {matchLabels: {app: payments}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/foo/sa/orders]}}]
    to: [{operation: {ports: ["8080"], paths: [/charge, "/a/*/b"]}}]
`

const consulEntry = `Kind = "service-intentions"
Name = "payments"
Sources = [{ Name = "orders", Action = "allow" }]
`

// TestFiles: lint, test and import need no control plane when they are given files.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	ported := strings.Replace(rules, "methods:", "ports: [web], methods:", 1)
	for name, text := range map[string]string{
		"rules.yaml": rules, "ported.yaml": ported, "tests.yaml": tests, "wrong.yaml": strings.Replace(tests, "deny", "allow", 1),
		"broken.yaml": strings.Replace(tests, "expect", "expects", 1), "istio.yaml": istioPolicy, "consul.hcl": consulEntry,
		"custom.yaml": strings.Replace(istioPolicy, "  rules:", "  action: CUSTOM\n  rules:", 1),
		"empty.yaml":  strings.Replace(rules, "  rules:", "  unruly:", 1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args, stdin    string
		code           int
		stdout, stderr string
	}{
		{args: "policy lint -f ported.yaml"},
		{args: "policy lint -f rules.yaml", code: 1, stdout: "rules.yaml:8:5: spec.rules[0]: looks at"},
		{args: "policy lint -f -", stdin: rules, code: 1, stdout: "<stdin>:8:5: spec.rules[0]: "},
		{args: "policy lint -f empty.yaml", code: 4, stderr: "empty.yaml:7:3: spec.unruly: unknown field"},
		{args: "policy lint -f nope.yaml", code: 4, stderr: "nope.yaml"},
		{args: "policy lint", code: 3, stderr: "is mesh serve running there?"},
		{args: "policy test -f tests.yaml -r rules.yaml", stdout: "3 tests, 0 failed\n"},
		{args: "policy test -f wrong.yaml -r rules.yaml", code: 1, stdout: "wrong.yaml:2: may not refund: want allow, got deny: orders may call payments, but no rule allows POST /refund\n    payments-callers[0] (allow): the path does not match\n3 tests, 1 failed\n"},
		{args: "policy test -f - -r rules.yaml", stdin: strings.Replace(tests, "payments-callers", "other", 1), code: 1, stdout: "may charge: decided by another policy: "},
		{args: "policy test -f broken.yaml -r rules.yaml", code: 4, stderr: "broken.yaml:1:"},
		{args: "policy test -f tests.yaml -r empty.yaml", code: 4, stderr: "unruly"},
		{args: "policy test -f tests.yaml", code: 3, stderr: "is mesh serve running there?"},
		{args: "policy test -r rules.yaml", code: 2, stderr: `required flag(s) "file" not set`},
		{args: "policy import istio istio.yaml --port 8080=web", stdout: "  - ns/foo/sa/orders", stderr: `istio.yaml:8: paths "/a/*/b"`},
		{args: "policy import istio - --port 8080=", stdin: istioPolicy, stdout: "# from <stdin>:1\n", stderr: "<stdin>:8: "},
		{args: "policy import istio istio.yaml --port web", code: 4, stderr: "NUMBER=NAME"},
		{args: "policy import istio custom.yaml", code: 4, stderr: "custom.yaml:1: action CUSTOM"},
		{args: "policy import istio custom.yaml --partial", stderr: "more may be allowed"},
		{args: "policy import istio", code: 2, stderr: "requires at least 1 arg"},
		{args: "policy import consul consul.hcl", stdout: "name: consul.payments"},
		{args: "policy import consul rules.yaml", stderr: "passed over"},
	} {
		code, out, errs := mesh(t, dir, c.stdin, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.stdout) || !strings.Contains(errs, c.stderr) || c.stderr == "" && errs != "" || c.code == 4 && out != "" {
			t.Errorf("mesh %s: exit code %d, want %d\nstdout: %s\nwant: %s\nstderr: %s\nwant: %s", c.args, code, c.code, out, c.stdout, errs, c.stderr)
		}
	}
	// What import prints, apply reads; as JSON too.
	_, out, _ := mesh(t, dir, "", "policy", "import", "istio", "istio.yaml", "--port", "8080=web")
	docs, err := rulesfile.Parse("out", []byte(out))
	if err != nil || len(docs) != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	_, out, _ = mesh(t, dir, "", "policy", "import", "istio", "istio.yaml", "-o", "json")
	var r policyimport.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Notes) == 0 {
		t.Errorf("%v\n%s", err, out)
	}
	_, out, _ = mesh(t, dir, "", "policy", "lint", "-f", "rules.yaml", "-o", "json")
	var found []policy.Problem
	if err := json.Unmarshal([]byte(out), &found); err != nil || len(found) != 1 || found[0].Line != 8 {
		t.Errorf("%v\n%s", err, out)
	}
	_, out, _ = mesh(t, dir, "", "policy", "test", "-f", "wrong.yaml", "-r", "rules.yaml", "-o", "json")
	var results []policytest.Result
	if err := json.Unmarshal([]byte(out), &results); err != nil || len(results) != 3 || results[1].Passed || !results[0].Passed {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestInForce: without files, lint and test are about the rules in force.
func TestInForce(t *testing.T) {
	dir := newPlane(t)
	serve(t, dir)
	must(t, dir, rules, "policy", "apply", "-f", "-")
	if code, out, errs := mesh(t, dir, "", "policy", "lint"); code != 1 || !strings.HasPrefix(out, "payments-callers: spec.rules[0]: ") {
		t.Errorf("lint: %d %s %s", code, out, errs)
	}
	if code, out, errs := mesh(t, dir, tests, "policy", "test", "-f", "-"); code != 0 || out != "3 tests, 0 failed\n" {
		t.Errorf("test: %d %s %s", code, out, errs)
	}
}

package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	meshlib "github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
)

const rules = `apiVersion: mesh/v1
kind: Authorization
metadata: {name: payments-callers}
spec:
  service: payments
  action: allow
  rules:
  - from: [{services: [orders]}]
    to: [{methods: [POST], paths: ["/charge"]}]
`

func TestCommands(t *testing.T) {
	dir := newPlane(t)
	serve(t, dir)
	t.Chdir(dir)
	if err := os.WriteFile("rules.yaml", []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("more", 0o700); err != nil {
		t.Fatal(err)
	}
	second := strings.ReplaceAll(strings.ReplaceAll(rules, "payments", "ledger"), "allow", "deny")
	if err := os.WriteFile("more/ledger.yml", []byte(second), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("more/README", []byte("not rules"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(rules, "methods", "method", 1)

	for _, c := range []struct {
		args   string
		stdin  string
		code   int
		stdout string // must contain
		stderr string
	}{
		{args: "policy apply -f rules.yaml", stdout: "payments-callers  created\nrules v2\n"},
		{args: "policy apply -f -", stdin: rules, stdout: "payments-callers  unchanged\nrules v2\n"},
		{args: "policy apply -f more -f rules.yaml", stdout: "ledger-callers    created\npayments-callers  unchanged\nrules v3\n"},
		{args: "policy apply -f rules.yaml -f -", stdin: rules, code: 4, stderr: `<stdin>: the name "payments-callers" is taken by a document in rules.yaml`},
		{args: "policy apply -f -", stdin: broken, code: 4, stderr: "<stdin>:9:11: spec.rules[0].to[0].method: unknown field"},
		{args: "policy apply -f nope.yaml", code: 4, stderr: "nope.yaml"},
		{args: "policy apply", code: 2, stderr: `required flag(s) "file" not set`},
		{args: "policy list", stdout: "payments-callers  payments  allow   enforce  1"},
		{args: "policy get payments-callers", stdout: "  service: payments\n  action: allow\n"},
		{args: "policy get nope", code: 4, stderr: `policy "nope": not found`},
		{args: "policy apply -f rules.yaml --base v2", code: 4, stderr: "the change was made from v2, and v3 is current; v3 by uid "},
		{args: "policy apply -f rules.yaml --base x", code: 4, stderr: "want a number, such as v42"},
		{args: "policy apply -f rules.yaml --base v3", stdout: "payments-callers  unchanged\nrules v3\n"},
		{args: "policy diff -f -", stdin: strings.Replace(rules, "POST", "GET", 1), code: 1, stdout: "-      - POST\n+      - GET\n"},
		{args: "policy diff -f rules.yaml --replace", code: 1, stdout: "ledger-callers deleted\n-apiVersion"},
		{args: "policy diff -f more -f rules.yaml", stdout: "0 documents differ from v3\n"},
		{args: "policy diff v2", code: 1, stdout: "ledger-callers created\n+apiVersion"},
		{args: "policy diff v3 v2", code: 1, stdout: "ledger-callers deleted\n-apiVersion"},
		{args: "policy diff v9", code: 4, stderr: "rules v9: not found"},
		{args: "policy diff", code: 4, stderr: "either -f or a version"},
		{args: "policy history", stdout: "ledger-callers created"},
		{args: "status", stdout: "v3: at 0 of 0 members\n  control plane 127.0.0.1:"},
		{args: "status --wait", stdout: "v3: at 0 of 0 members\n", stderr: "v3: at 0 of 0 members\n"},
		{args: "audit", stdout: "rules: apply"},
		{args: "explain orders payments POST /charge", stdout: "allow by payments-callers[0]"},
		{args: "explain orders payments GET /charge", code: 1, stdout: "deny: "},
		{args: "explain orders payments", code: 1, stdout: "not known when a connection is accepted"},
		{args: "explain orders ledger:admin", code: 1, stdout: "deny by ledger-callers[0]"},
		{args: "explain shop payments --grpc pay.v1.Payments/Charge", code: 1, stdout: "decided for: grpc"},
		{args: "explain orders", code: 2, stderr: "want FROM and TO"},
		{args: "explain orders payments POST charge", code: 4, stderr: "does not start with a slash"},
		{args: "explain Orders payments", code: 4, stderr: "Orders"},
		{args: "members", stdout: "mesh/control"},
		{args: "policy delete nope payments-callers", code: 4, stderr: `policy "nope": not found`},
		{args: "policy delete payments-callers ledger-callers", stdout: "ledger-callers    deleted\nrules v4\n"},
		{args: "policy rollback v3", stdout: "rules v5\n"},
		{args: "policy rollback 1 --base 4", code: 4, stderr: "v5 is current"},
		{args: "policy apply -f rules.yaml --replace", stdout: "ledger-callers    deleted\nrules v6\n"},
		{args: "revoke payments --reason drill", stdout: "service payments: certificates issued until"},
		{args: "revoke --list", stdout: "drill"},
		{args: "revoke --undo payments", stdout: "taken back  service payments"},
		{args: "revoke 4F:0A:11:22:33:44:55:66:77", stdout: "revoked  serial 4f0a11223344556677\n"},
		{args: "revoke --undo 4f0a11223344556677", stdout: "taken back"},
		{args: "revoke --undo payments", code: 4, stderr: "not found"},
		{args: "revoke", code: 4, stderr: "want one of"},
		{args: "token mesh/control", code: 4, stderr: "reserved"},
		{args: "token orders --ttl 10000h", code: 4, stderr: "lifetime"},
		{args: "token", code: 2, stderr: "accepts 1 arg"},
		{args: "bogus", code: 2, stderr: `unknown command "bogus"`},
		{args: "members --bogus", code: 2, stderr: "unknown flag: --bogus"},
		{args: "members -o yaml", code: 2, stderr: "want json"},
		{args: "members --dir elsewhere", code: 3, stderr: "is mesh serve running there?"},
		{args: "members --dir " + strings.Repeat("d", 120), code: 5, stderr: "shorter"},
		{args: "init --trust-domain example.test", code: 4, stderr: "never overwritten"},
		{args: "init other --trust-domain a.test --root nope.crt", code: 4, stderr: "go together"},
		{args: "init other --trust-domain a.test --root nope.crt --intermediate nope.crt --key nope.key", code: 4, stderr: "nope"},
		{args: "init other --trust-domain example.test --root mesh-data/ca/root.crt --intermediate mesh-data/ca/intermediate.crt --key-uri softkms:path=mesh-data/ca/intermediate.key", stdout: "other is the control plane"},
		{args: "init other3 --trust-domain a.test --ca https://127.0.0.1:1", code: 4, stderr: "is missing: an external CA needs"},
		{args: "init other3 --trust-domain a.test --ca http://ca.test --ca-root r.crt --ca-provisioner mesh --ca-key k", code: 4, stderr: "https://host:port"},
		{args: "init other3 --trust-domain a.test --ca https://ca.test:9000 --ca-root nope.crt --ca-provisioner mesh --ca-key nope.key", stdout: "other3 is the control plane"},
		{args: "serve --dir other3", code: 4, stderr: "key_file: stat nope.key"},
		{args: "serve --ca https://127.0.0.1:1", code: 5, stderr: "is missing: an external CA needs"},
		{args: "ca status", stdout: "yes"},
		{args: "ca rotate --abort", code: 4, stderr: "no rotation"},
		{args: "ca rotate --key x", code: 4, stderr: "go together"},
		{args: "init other2", code: 2, stderr: `required flag(s) "trust-domain" not set`},
		{args: "serve", code: 5, stderr: "held by another process"},
		{args: "serve --dir elsewhere", code: 5, stderr: "run mesh init elsewhere first"},
	} {
		code, out, errs := mesh(t, dir, c.stdin, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.stdout) || !strings.Contains(errs, c.stderr) || c.code == 0 && c.stderr == "" && errs != "" {
			t.Errorf("mesh %s: exit code %d, want %d\nstdout: %s\nwant: %s\nstderr: %s\nwant: %s", c.args, code, c.code, out, c.stdout, errs, c.stderr)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "mesh-data", "admin.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
}

func TestJSON(t *testing.T) {
	dir := newPlane(t)
	serve(t, dir)
	decode := func(v any, stdin string, args ...string) {
		t.Helper()
		if err := json.Unmarshal([]byte(must(t, dir, stdin, append(args, "-o", "json")...)), v); err != nil {
			t.Errorf("mesh %s: %v", strings.Join(args, " "), err)
		}
	}
	var result store.Result
	decode(&result, rules, "policy", "apply", "-f", "-")
	if result.Version != 2 || len(result.Changes) != 1 || result.Changes[0].Change != store.Created {
		t.Errorf("apply: %+v", result)
	}
	var doc policy.Document
	decode(&doc, "", "policy", "get", "payments-callers")
	var all store.Rules
	decode(&all, "", "policy", "list")
	if doc.Metadata.Name != "payments-callers" || len(all.Documents) != 1 || all.Version != 2 {
		t.Errorf("get: %+v, list: %+v", doc, all)
	}
	var e policy.Explanation
	decode(&e, "", "explain", "orders", "payments", "POST", "/charge")
	if e.Decision.Verdict != policy.Allow || len(e.Policies) != 1 {
		t.Errorf("explain: %+v", e)
	}
	var members []map[string]any
	decode(&members, "", "members")
	if len(members) != 1 || members[0]["service"] != "mesh/control" {
		t.Errorf("members: %v", members)
	}
	var token struct{ Service, Bootstrap string }
	decode(&token, "", "token", "payments")
	b, err := meshlib.ParseBootstrap(token.Bootstrap)
	if err != nil || b.Service != "payments" || b.Token == "" {
		t.Errorf("token: %v, %v", b, err)
	}
	if plain := strings.TrimSpace(must(t, dir, "", "token", "payments")); !strings.HasPrefix(plain, "mesh1.") || strings.ContainsAny(plain, " \n") {
		t.Errorf("token: %q", plain)
	}
	// What get prints, apply takes.
	if code, out, errs := mesh(t, dir, must(t, dir, "", "policy", "get", "payments-callers"), "policy", "apply", "-f", "-"); code != 0 || !strings.Contains(out, "unchanged") {
		t.Errorf("round trip: %d %s %s", code, out, errs)
	}
}

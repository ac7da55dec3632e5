package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRemoteOperators: from elsewhere, by certificate and role; what they do is in the log under their name.
func TestRemoteOperators(t *testing.T) {
	dir := t.TempDir()
	const addr = "127.0.0.1:0"
	must(t, dir, "", "init", "--trust-domain", "example.test", "--listen-ca", addr, "--listen-mesh", addr, "--listen-gossip", addr, "--listen-admin", addr)
	p := serve(t, dir)
	var at struct{ Admin string }
	if err := json.Unmarshal([]byte(p.line), &at); err != nil || at.Admin == "" {
		t.Fatal(p.line, err)
	}
	elsewhere := t.TempDir()
	issued := map[string]string{} // serial numbers
	for _, role := range []string{"viewer", "editor"} {
		var out struct{ Serial string }
		text := must(t, dir, "", "admin", "issue", "alice-the-"+role, "--role", role, "-f", filepath.Join(elsewhere, role+".pem"), "-o", "json")
		if err := json.Unmarshal([]byte(text), &out); err != nil || out.Serial == "" {
			t.Fatal(text, err)
		}
		issued[role] = out.Serial
	}
	first, err := os.ReadFile(filepath.Join(dir, "mesh-data", "admin.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(elsewhere, "admin.pem"), first, 0o600); err != nil {
		t.Fatal(err)
	}
	as := func(role, stdin string, args ...string) (int, string, string) {
		t.Helper()
		return mesh(t, elsewhere, stdin, append(args, "--server", "https://"+at.Admin, "--cert", role+".pem")...)
	}
	for _, c := range []struct {
		role, stdin, args string
		code              int
		stderr            string
	}{
		{"viewer", "", "policy list", 0, ""},
		{"viewer", rules, "policy apply -f -", 4, "alice-the-viewer is viewer: this takes editor"},
		{"editor", rules, "policy apply -f -", 0, ""},
		{"editor", "", "token orders", 4, "this takes admin"},
		{"admin", "", "token orders", 0, ""},
		{"admin", "", "snapshot save snap", 0, ""},
		{"admin", "", "admin revoke " + issued["viewer"], 0, ""},
		{"viewer", "", "policy list", 4, "revoked"},
		{"editor", "", "status", 0, ""},
		{"nobody", "", "status", 4, "no such file"},
	} {
		if code, _, errs := as(c.role, c.stdin, strings.Fields(c.args)...); code != c.code || !strings.Contains(errs, c.stderr) {
			t.Errorf("%s: mesh %s: %d %s", c.role, c.args, code, errs)
		}
	}
	if code, _, errs := mesh(t, elsewhere, "", "status", "--server", "https://"+at.Admin); code != 4 || !strings.Contains(errs, "--cert") {
		t.Errorf("without --cert: %d %s", code, errs)
	}
	out := must(t, dir, "", "audit")
	for _, want := range []string{"alice-the-editor  127.0.0.1:", "rules: apply", "operator revoked"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in the log:\n%s", want, out)
		}
	}
	if strings.Contains(out, "mesh1.") {
		t.Error("a token is in the log")
	}
	// What is revoked stays so.
	p.kill(t)
	again := serve(t, dir)
	if again.line != p.line {
		t.Errorf("came back as %s, was %s", again.line, p.line)
	}
	if code, _, _ := as("viewer", "", "policy", "list"); code != 4 {
		t.Error("a revoked operator is back after a restart")
	}
}

//go:build linux

package main_test

import (
	"os/exec"
	"strings"
	"testing"
)

// full runs in a mount namespace of its own, with the control plane's directory on a small file system.
const full = `
set -u
mount -t tmpfs -o size=8m none "$1" || { echo "no mount"; exit 77; }
cd "$1"
ports="--listen-ca 127.0.0.1:0 --listen-mesh 127.0.0.1:0 --listen-gossip 127.0.0.1:0"
"$2" init d --trust-domain example.test $ports >/dev/null || exit 1
start() { "$2" serve --dir d --log-level error >out 2>err & pid=$!; for i in $(seq 100); do [ -s out ] && return; sleep 0.1; done; cat err; exit 1; }
rule() { printf 'apiVersion: mesh/v1\nkind: Authorization\nmetadata: {name: p%s}\nspec: {service: payments, action: allow, rules: [{from: [{services: [orders]}]}]}\n' "$3" | "$2" policy apply --dir d -f -; }
start "$@"
rule "$1" "$2" 1 >/dev/null || exit 1
dd if=/dev/zero of=fill bs=64k >/dev/null 2>&1
n=2; while rule "$1" "$2" $n >/dev/null 2>"$1.why"; do n=$((n+1)); [ $n -lt 400 ] || { echo "never full"; exit 1; }; done
echo "refused: $(cat "$1.why")"
"$2" policy list --dir d | tail -1 | sed 's/^/while full: /'
"$2" explain --dir d orders payments >/dev/null || echo "explain failed"
rm fill
rule "$1" "$2" $n >/dev/null && echo "after: applied"
kill -9 $pid; wait $pid 2>/dev/null
: >out; start "$@"
"$2" policy list --dir d | tail -1 | sed "s/^/restarted, $n acknowledged: /"
kill -9 $pid; wait $pid 2>/dev/null
mount -o remount,ro "$1"
"$2" serve --dir d 2>&1 | sed 's/^/read-only: /'
`

// TestFullAndReadOnly: when there is no space, changes fail and nothing else does; what was acknowledged stays.
func TestFullAndReadOnly(t *testing.T) {
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "-Urm", "sh", "-c", full, "sh", t.TempDir(), binary)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "no mount") || strings.Contains(string(out), "unshare failed") {
		t.Skipf("no mount namespace: %s", out)
	}
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	refused, rest, _ := strings.Cut(string(out), "while full: rules v")
	if !strings.Contains(refused, "no space left on device") {
		t.Error("the refusal does not say why")
	}
	version, rest, _ := strings.Cut(rest, "\n")
	for _, want := range []string{"after: applied\n", " acknowledged: rules v", "read-only file system"} {
		if !strings.Contains(rest, want) {
			t.Errorf("%q is missing (v%s while full)", want, version)
		}
	}
	if strings.Contains(rest, "explain failed") {
		t.Error("reading failed")
	}
}

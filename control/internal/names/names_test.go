package names_test

import (
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/internal/names"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, want := range map[string]struct{ ok, ordinary bool }{
		"orders": {true, true}, "billing/invoices": {true, true}, "a-1_b": {true, true}, long: {true, true},
		"mesh/control": {true, false}, "mesh": {true, false}, "meshed": {true, true},
		"": {}, "/": {}, "a/": {}, "/a": {}, "a//b": {}, "A": {}, "-a": {}, "_a": {}, "a.b": {}, "..": {}, "a b": {}, "ä": {}, "a*": {},
		long + "a": {}, strings.Repeat("a/", 127): {},
	} {
		if err := names.Check(name); (err == nil) != want.ok {
			t.Errorf("%q: %v", name, err)
		}
		if err := names.CheckOrdinary(name); (err == nil) != want.ordinary {
			t.Errorf("to enrol as %q: %v", name, err)
		}
	}
}

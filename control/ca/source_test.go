package ca_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/identity"
)

// TestSourceRenews: the control plane's own identity is replaced, key and all, at two thirds of its
// life, and is good at any time.
func TestSourceRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, end := open(t, newDir(t), time.Hour)
		defer func() { _ = end() }()
		src, err := c.Source("mesh/control")
		if err != nil {
			t.Fatal(err)
		}
		serials := make(map[string]int)
		keys := make(map[any]bool)
		for minute := range 120 {
			svid, err := src.GetX509SVID()
			if err != nil {
				t.Fatal(err)
			}
			id, err := identity.Verify(svid.Certificates, src)
			if err != nil || identity.ServiceName(id) != "mesh/control" {
				t.Fatalf("minute %d: %v, %v", minute, id, err)
			}
			if left := time.Until(svid.Certificates[0].NotAfter); left < 20*time.Minute {
				t.Errorf("minute %d: %v left", minute, left)
			}
			serials[svid.Certificates[0].SerialNumber.String()]++
			keys[svid.PrivateKey] = true
			<-time.After(time.Minute)
		}
		if len(serials) != 3 || len(keys) != 3 {
			t.Errorf("%d certificates and %d keys in two hours, want 3", len(serials), len(keys))
		}
	})
	if _, err := (&ca.CA{}).Source("Not a name"); err == nil {
		t.Error("a source for a name that is none")
	}
}

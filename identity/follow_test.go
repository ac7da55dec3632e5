package identity_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"testing"
	"testing/synctest"
	"time"
)

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// TestFollow: what the source is told of it fetches soon, and tries again when the CA is not that far.
func TestFollow(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		next := newCA(t, "prod.example")
		s := mustStepCA(t, ca.config(ca.token("payments"), t.TempDir()))
		roots := func() int {
			b, err := s.GetX509BundleForTrustDomain(ca.TrustDomain())
			if err != nil {
				t.Fatal(err)
			}
			return len(b.X509Authorities())
		}
		both := []string{fingerprint(ca.Root), fingerprint(next.Root)}
		ca.seen("")
		s.Follow(both, fingerprint(ca.Intermediate))
		<-time.After(time.Minute) // this replica of the CA does not know yet
		synctest.Wait()
		if n := len(ca.seen("/roots")); roots() != 1 || n < 2 || n > 40 {
			t.Errorf("%d roots after %d requests", roots(), n)
		}
		ca.set(func() { ca.roots = append(ca.roots, next.Root) })
		<-time.After(5 * time.Minute)
		synctest.Wait()
		if roots() != 2 {
			t.Fatal("the new root was not fetched")
		}
		ca.seen("")
		<-time.After(time.Hour - 10*time.Minute)
		if n := len(ca.seen("/roots")); n > 1 {
			t.Errorf("%d more requests when there was nothing to fetch", n)
		}

		old := leafOf(t, s)
		s.Follow(both, fingerprint(next.Intermediate))
		ca.set(func() { ca.CA = next })
		<-time.After(11 * time.Minute)
		synctest.Wait()
		svid, err := s.GetX509SVID()
		if err != nil || svid.Certificates[0].Equal(old) || !svid.Certificates[1].Equal(next.Intermediate) {
			t.Errorf("not renewed: %v", err)
		}
		s.Follow([]string{fingerprint(next.Root)}, fingerprint(next.Intermediate))
		ca.set(func() { ca.roots = ca.roots[1:] })
		<-time.After(6 * time.Minute)
		synctest.Wait()
		if roots() != 1 {
			t.Error("the old root is still trusted")
		}
	})
}

package identity

import (
	"crypto/x509"
	"math/rand/v2"
	"slices"
	"time"
)

// followed is what Follow was told last.
type followed struct {
	roots  []string
	issuer string
	fresh  bool // run has not looked at it yet
}

// Follow tells which roots the CA hands out now, and which certificate it signs with: their SHA-256 in hex, from a
// source that can be trusted to say so. What this process has that differs it fetches, and renews, within a short time that
// is random, so that not all do it at once. An empty list or name means no matter. It does not block.
func (s *StepCA) Follow(roots []string, issuer string) {
	s.followMu.Lock()
	defer s.followMu.Unlock()
	if slices.Equal(s.follow.roots, roots) && s.follow.issuer == issuer {
		return
	}
	s.follow = followed{slices.Clone(roots), issuer, true}
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// heed brings forward what is due.
func (s *StepCA) heed(now time.Time) {
	s.followMu.Lock()
	f := s.follow
	s.follow.fresh = false
	s.followMu.Unlock()
	soon := func(due *time.Time, within time.Duration, failures int) {
		at := now.Add(rand.N(within + 1)) //nolint:gosec // spreads load, hides nothing
		if !f.fresh {                     // it was tried, and the CA's other replicas are not that far
			at = now.Add(retryDelay(failures, maxRetryDelay))
		}
		if at.Before(*due) {
			*due = at
		}
	}
	have := s.snapshot.Load()
	life := have.expires.Sub(have.svid.Certificates[0].NotBefore)
	if len(f.roots) > 0 && !sameRoots(have, f.roots) {
		s.due.behind++
		soon(&s.due.refresh, min(life/100, 30*time.Second), s.due.behind)
		return // a certificate by a root that is not known yet is of no use
	}
	if f.issuer != "" && len(have.svid.Certificates) > 1 && fingerprintOf(have.svid.Certificates[1]) != f.issuer {
		s.due.behind++
		soon(&s.due.renew, min(life/20, 10*time.Minute), s.due.behind)
		return
	}
	s.due.behind = 0
}

func sameRoots(have *snapshot, want []string) bool {
	roots := have.bundle.X509Authorities()
	return len(roots) == len(want) && !slices.ContainsFunc(roots, func(r *x509.Certificate) bool { return !slices.Contains(want, fingerprintOf(r)) })
}

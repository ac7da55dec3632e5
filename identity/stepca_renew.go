package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	// maxNap is the longest that the loop sleeps. Timers stand still while a machine is suspended,
	// and certificates don't.
	maxNap        = time.Minute
	minRetryDelay = time.Second
	maxRetryDelay = 5 * time.Minute
	// minRenewal keeps a CA whose own certificate ends soon from being asked without pause.
	minRenewal = 10 * time.Second
)

// schedule belongs to the goroutine of run.
type schedule struct {
	renew, refresh      time.Time // when the certificate and the roots are due, by the wall clock
	renewals, refreshes int       // failures in a row
	behind              int       // times in a row that the CA did not have what Follow told of
}

// run renews until ctx is done.
func (s *StepCA) run(ctx context.Context) {
	defer s.persist() // Close may come between a change and the end of its turn
	s.due.renew = renewAt(s.snapshot.Load().svid)
	for {
		now := time.Now().Round(0) // by the wall clock, too
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
			s.heed(time.Now().Round(0))
		case <-time.After(max(0, min(maxNap, s.due.renew.Sub(now), s.due.refresh.Sub(now)))):
		}
		now = time.Now().Round(0)
		if now.Before(s.due.renew) && now.Before(s.due.refresh) {
			continue
		}
		s.refreshRoots(ctx, now)
		if !now.Before(s.due.renew) {
			s.renew(ctx, now)
		}
		s.heed(time.Now().Round(0))
		s.persist()
	}
}

// refreshRoots fetches the roots and takes them if they differ. When they no longer cover
// the certificate in use, that is due too.
func (s *StepCA) refreshRoots(ctx context.Context, now time.Time) {
	have := s.snapshot.Load()
	roots, err := s.client.roots(ctx, have.bundle)
	if err != nil && ctx.Err() != nil { // Close
		return
	}
	if err != nil {
		s.due.refreshes++
		s.due.refresh = now.Add(min(retryDelay(s.due.refreshes, maxRetryDelay), s.cfg.RefreshRoots))
		s.log.Warn("the CA's roots were not refreshed", "failures", s.due.refreshes, "error", err)
		return
	}
	s.due.refreshes, s.due.refresh = 0, now.Add(jitter(s.cfg.RefreshRoots))
	if roots.Equal(have.bundle) {
		return
	}
	s.set(have.svid, roots)
	s.unsaved = true
	s.log.Info("the CA's roots changed", "roots", len(roots.X509Authorities()))
	if checkIssued(have.svid, roots) != nil {
		s.due.renew = now
	}
}

// renew replaces the certificate and its key.
func (s *StepCA) renew(ctx context.Context, now time.Time) {
	have := s.snapshot.Load()
	svid, err := s.client.rekey(ctx, have.svid, have.bundle)
	if err != nil && ctx.Err() != nil { // Close
		return
	}
	if err != nil && s.again != nil && now.After(have.expires) {
		err = errors.Join(err, s.enrol(ctx, s.again))
		if have = s.snapshot.Load(); now.Before(have.expires) {
			s.due.renewals, s.due.renew = 0, renewAt(have.svid)
			return
		}
	}
	if err != nil {
		s.due.renewals++
		s.due.renew = now.Add(s.missed(ctx, err))
		return
	}
	s.set(svid, have.bundle)
	s.unsaved = true
	s.due.renewals, s.due.renew = 0, renewAt(svid)
	if soonest := now.Add(minRenewal); s.due.renew.Before(soonest) {
		s.due.renew = soonest
	}
	s.log.Info("renewed", "id", svid.ID.String(), "expires", expiry(svid.Certificates))
}

// persist stores what is in use. What can't be stored is used all the same, and stored at
// the next turn if it can be then.
func (s *StepCA) persist() {
	if !s.unsaved {
		return
	}
	have := s.snapshot.Load()
	if err := save(s.cfg.Dir, s.cfg.RootFingerprint, have.svid, have.bundle); err != nil {
		s.log.Error("the certificate in use could not be stored: a restart will find a former one", "dir", s.cfg.Dir, "error", err)
		return
	}
	s.unsaved = false
}

// missed reports a failed renewal and returns how long to wait for the next attempt.
func (s *StepCA) missed(ctx context.Context, err error) time.Duration {
	have := s.snapshot.Load()
	life, left := have.expires.Sub(have.svid.Certificates[0].NotBefore), time.Until(have.expires)
	delay := retryDelay(s.due.renewals, min(maxRetryDelay, life/30))
	level, text := slog.LevelWarn, "the certificate was not renewed"
	switch {
	case left <= 0:
		level, text = slog.LevelError, "the certificate has expired and was not renewed: peers refuse this process; get a new token and restart"
	case left < life/6:
		level, text = slog.LevelError, "the certificate expires soon and was not renewed"
	}
	s.log.Log(ctx, level, text, "id", have.svid.ID.String(), "expires", have.expires, "left", left.Round(time.Second),
		"failures", s.due.renewals, "retry", delay.Round(time.Second), "error", err)
	return delay
}

// renewAt is two thirds into the life of a certificate, give or take 5 % of it.
func renewAt(svid *x509svid.SVID) time.Time {
	born := svid.Certificates[0].NotBefore
	life := float64(expiry(svid.Certificates).Sub(born))
	return born.Add(time.Duration(life * (2.0/3 + (rand.Float64()-0.5)/10))) //nolint:gosec // spreads load, hides nothing
}

// retryDelay doubles from one second up to limit; half of it is random, so that members
// that failed together don't return together.
func retryDelay(failures int, limit time.Duration) time.Duration {
	d := max(minRetryDelay, min(limit, minRetryDelay<<min(failures-1, 16)))
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, hides nothing
}

// jitter returns between 0.9 d and d.
func jitter(d time.Duration) time.Duration {
	return d - rand.N(d/10+1) //nolint:gosec // spreads load, hides nothing
}

// firstContact fetches the fingerprinted root. While the CA can't be connected to, as when
// everything starts at once, it tries again for as long as patience lasts.
func (s *StepCA) firstContact(ctx context.Context) (*x509.Certificate, error) {
	giveUp := time.Now().Add(patience)
	for failures := 1; ; failures++ {
		root, err := s.client.root(ctx, s.cfg.RootFingerprint)
		op, ok := errors.AsType[*net.OpError](err)
		if !ok || op.Op != "dial" || time.Now().After(giveUp) {
			return root, err
		}
		if failures == 1 {
			s.log.Warn("waiting for the CA", "url", s.cfg.URL, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(retryDelay(failures, patience/10)):
		}
	}
}

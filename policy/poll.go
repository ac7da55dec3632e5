package policy

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/intramesh/mesh/internal/strictjson"
)

// Times of the long poll.
const (
	minBackoff  = 250 * time.Millisecond
	maxBackoff  = 30 * time.Second
	fetchLimit  = 2 * time.Minute
	minInterval = 500 * time.Millisecond // between answers that bring nothing
)

// Start begins to follow the control plane, once; further calls do nothing. It does
// not block. After an error, or a bundle that is refused, it waits from 250 ms, doubling, up to 30 s, each
// less up to a half at random, so that a mesh does not come back all at once.
func (s *Syncer) Start() {
	if s.cfg.Fetch == nil {
		return
	}
	s.start.Do(func() { s.wg.Go(s.follow) })
}

func (s *Syncer) follow() {
	var refused FetchRequest
	failures := 0
	for s.ctx.Err() == nil {
		began := time.Now()
		data, central, err := s.fetch(FetchRequest{After: s.Version(), Refused: refused.Refused, Reason: refused.Reason})
		wait := time.Duration(0)
		switch {
		case s.ctx.Err() != nil:
			return
		case errors.Is(err, ErrFetchAgain):
			wait = max(0, minInterval-time.Since(began))
		case err != nil:
			failures++
			wait = backoff(failures)
			s.answer(false)
			s.log.Warn("fetching rules failed; those in force stay", "error", err, "version", s.Version(), "failures", failures, "retry_in", wait)
		case data == nil:
			failures = 0
			s.answer(true)
			wait = max(0, minInterval-time.Since(began))
		default:
			if err = s.Apply(data); err == nil {
				failures, refused = 0, FetchRequest{}
				s.answer(central)
				break
			}
			s.answer(false)
			if s.ctx.Err() != nil {
				return
			}
			failures++
			wait = backoff(failures)
			refused.Refused, refused.Reason = claimedVersion(data), clip(err.Error(), maxText)
			s.log.Error("rules were refused; those in force stay", "error", err, "version", s.Version(), "refused", refused.Refused, "retry_in", wait)
		}
		if wait > 0 {
			s.sleep(wait)
		}
	}
}

// fetch asks the control plane, and when that fails somebody else. Only the former is central.
func (s *Syncer) fetch(r FetchRequest) (data []byte, central bool, err error) {
	ctx, cancel := context.WithTimeoutCause(s.ctx, fetchLimit, errors.New("no answer in two minutes"))
	defer cancel()
	data, err = s.cfg.Fetch(ctx, r)
	if err == nil || errors.Is(err, ErrFetchAgain) || s.cfg.FetchElsewhere == nil || ctx.Err() != nil {
		return data, true, err
	}
	if data = s.cfg.FetchElsewhere(ctx, r); data == nil {
		return nil, false, err
	}
	s.log.Warn("the control plane does not answer: rules came from elsewhere", "error", err)
	return data, false, nil
}

// answer records whether the control plane has just said that what is in force is newest.
func (s *Syncer) answer(current bool) {
	if !current {
		s.answered.Store(nil)
		return
	}
	now := time.Now()
	s.answered.Store(&now)
}

func (s *Syncer) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.ctx.Done():
	}
}

// backoff returns how long to wait after that many failures in a row.
func backoff(failures int) time.Duration {
	d := maxBackoff
	if failures < 8 {
		d = minBackoff << (failures - 1)
	}
	d = min(d, maxBackoff)
	return d - rand.N(d/2) //nolint:gosec // spreads load; nothing depends on it being unpredictable
}

// claimedVersion returns the version that a refused bundle says it has, for the report. It
// is not verified; 0 is unknown.
func claimedVersion(data []byte) uint64 {
	_, body, ok := cutPayload(data)
	if !ok {
		return 0
	}
	var claim struct {
		Version uint64 `json:"version"`
	}
	if strictjson.Unmarshal(body, &claim) != nil {
		return 0
	}
	return claim.Version
}

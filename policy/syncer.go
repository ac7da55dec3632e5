package policy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A SyncConfig says what a [Syncer] trusts and where it gets bundles from.
type SyncConfig struct {
	// TrustDomain is the mesh's; a bundle for another one is refused.
	TrustDomain spiffeid.TrustDomain
	// Keys are those that may sign bundles. At least one is needed.
	Keys []ed25519.PublicKey
	// Dir keeps the last good bundle, so that a restart without the control plane
	// enforces it. It is made (0700) when missing; "" keeps nothing.
	Dir string
	// Fetch asks the control plane for a bundle newer than r.After, and waits for one. It returns nil when
	// the control plane says that there is none for now, and [ErrFetchAgain] to be called again without that. It is called
	// from one goroutine, with a context that ends after two minutes at the latest. When Fetch is nil, Start does nothing
	// and only [Syncer.Apply] brings bundles.
	Fetch func(ctx context.Context, r FetchRequest) ([]byte, error)
	// FetchElsewhere is asked as Fetch is, for somebody who may have a newer bundle, after Fetch failed. It does not wait
	// for one. It may be nil.
	FetchElsewhere func(ctx context.Context, r FetchRequest) []byte
	// Logger gets what happens to bundles; nil discards it.
	Logger *slog.Logger
}

// A FetchRequest says what a member has, and what it did not take.
type FetchRequest struct {
	// After is the version in force, 0 for none.
	After uint64
	// Refused is the version of the last bundle that was fetched and refused, 0 when there is
	// none since the one in force. When such a bundle does not verify, it is the version that it
	// claims, which may be 0 as well; Reason is then still set.
	Refused uint64
	// Reason says why, in words.
	Reason string
}

// ErrOlder is inside the error of [Syncer.Apply] when a bundle is older than the one in
// force, or another one of the same version.
var ErrOlder = errors.New("not newer than the rules in force")

// ErrFetchAgain is returned by [SyncConfig].Fetch when it stopped waiting for another reason than an answer.
var ErrFetchAgain = errors.New("policy: fetch again")

// ErrSyncerClosed is returned by calls on a closed [Syncer] that need it open.
var ErrSyncerClosed = errors.New("policy: syncer is closed")

// A Syncer is the [Authorizer] of a member: it decides by the newest bundle it has seen,
// and keeps it current. Until the first one it denies everything. It is safe for concurrent use, and
// must be closed.
type Syncer struct {
	cfg    SyncConfig
	log    *slog.Logger
	engine atomic.Pointer[Engine]
	// answered is when the control plane last said what is newest, nil when that is not in force or is not known.
	answered atomic.Pointer[time.Time]

	ctx   context.Context // ends at Close
	stop  context.CancelFunc
	start sync.Once
	wg    sync.WaitGroup
	first chan struct{} // closed when there is an engine

	// applying is held while a bundle is taken, the file included; mu only for the fields below.
	applying sync.Mutex

	mu      sync.Mutex
	signed  []byte        // the bundle in force
	changed chan struct{} // closed at the next change
}

// NewSyncer returns a Syncer that enforces the last good bundle in cfg.Dir, if one is there and
// still verifies. A damaged one is logged and ignored. Start makes it follow the control plane.
func NewSyncer(cfg SyncConfig) (*Syncer, error) {
	if cfg.TrustDomain.IsZero() {
		return nil, errors.New("policy: SyncConfig.TrustDomain is missing")
	}
	if len(cfg.Keys) == 0 {
		return nil, errors.New("policy: SyncConfig.Keys is empty; no bundle could ever be verified")
	}
	for i, k := range cfg.Keys {
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("policy: SyncConfig.Keys[%d] has %d bytes; an Ed25519 public key has %d", i, len(k), ed25519.PublicKeySize)
		}
	}
	cfg.Keys = slices.Clone(cfg.Keys)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Syncer{cfg: cfg, log: cfg.Logger, first: make(chan struct{}), changed: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if err := s.load(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// Authorize decides by the bundle in force.
func (s *Syncer) Authorize(ctx context.Context, r *Request) Decision {
	return s.engine.Load().Authorize(ctx, r)
}

// freshFor is how long the control plane's word on what is newest is good for: one poll, which it may hold for 55 seconds.
const freshFor = time.Minute

// Early is [Engine.Early] by rules that are fresh: the control plane answered a fetch within the last minute, and it is
// those in force that it gave, or had nothing newer than; no fetch has failed since. While the next fetch waits there, a
// change arrives here as soon as at the callee. If the way to the control plane breaks without a trace, that
// minute, or a word of the callee with a newer version, is what keeps old rules from denying.
func (s *Syncer) Early(r *Request, callee uint64) (Decision, bool) {
	at := s.answered.Load()
	if at == nil || !within(*at, time.Now(), freshFor) {
		return Decision{}, false
	}
	return s.engine.Load().Early(r, callee)
}

// within reports whether no more than d has passed, by either clock: the monotonic one stands still while a machine sleeps.
func within(from, to time.Time, d time.Duration) bool {
	wall := to.Round(0).Sub(from.Round(0))
	return to.Sub(from) <= d && wall <= d && wall >= 0
}

// Engine returns the rules in force, nil before the first bundle; a nil [Engine] denies.
func (s *Syncer) Engine() *Engine { return s.engine.Load() }

// Version returns the version of the bundle in force, 0 before the first one.
func (s *Syncer) Version() uint64 { return s.engine.Load().Version() }

// Bundle returns the signed bundle in force, nil before the first one. Callers must not
// modify it.
func (s *Syncer) Bundle() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signed
}

// Changed returns a channel that is closed when other rules come into force. To miss
// nothing, get the channel before deciding.
func (s *Syncer) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// WaitFirst blocks until there are rules to enforce, ctx is done or the Syncer is closed.
// Rules that were loaded from disk count.
func (s *Syncer) WaitFirst(ctx context.Context) error {
	select {
	case <-s.first:
		return nil
	default:
	}
	select {
	case <-s.first:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("policy: no rules yet: %w", context.Cause(ctx))
	case <-s.ctx.Done():
		return ErrSyncerClosed
	}
}

// Apply takes a signed bundle, wherever it comes from: it verifies it, keeps it on disk,
// and then enforces it. Applying the one in force does nothing. After an error, the rules
// in force stay.
func (s *Syncer) Apply(data []byte) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	if s.ctx.Err() != nil {
		return ErrSyncerClosed
	}
	if current := s.Bundle(); current != nil && bytes.Equal(current, data) {
		return nil
	}
	b, err := Open(data, s.cfg.Keys, s.cfg.TrustDomain)
	if err != nil {
		return err
	}
	if now := s.Version(); b.Version <= now {
		return fmt.Errorf("policy: bundle v%d refused: v%d is in force: %w", b.Version, now, ErrOlder)
	}
	e, err := Compile(b)
	if err != nil {
		return err
	}
	data = bytes.Clone(data)
	s.save(data)
	s.enforce(e, data)
	s.log.Info("rules in force", "version", b.Version, "documents", len(b.Documents), "issued", b.Issued)
	return nil
}

// enforce makes the engine the one that decides. The caller holds applying.
func (s *Syncer) enforce(e *Engine, signed []byte) {
	had := s.engine.Swap(e)
	s.mu.Lock()
	s.signed = signed
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if had == nil {
		close(s.first)
	}
}

// Close stops following. What is in force stays in force, so that connections that are
// still being closed are decided as before. It waits for a fetch to end, and may be called twice.
func (s *Syncer) Close() error {
	s.stop()
	s.wg.Wait()
	return nil
}

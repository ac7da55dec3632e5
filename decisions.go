package mesh

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/policy"
)

// Stats counts what a mesh has decided since it joined.
type Stats struct {
	// Decisions counts by layer, then by verdict: Decisions[policy.LayerHTTP][policy.Deny].
	Decisions [policy.LayerGRPC + 1][policy.Allow + 1]uint64
	// WouldDeny and WouldAllow count decisions that dry-run documents would have changed.
	WouldDeny, WouldAllow uint64
	// Cut counts connections and requests that were ended since they were no longer allowed.
	Cut uint64
	// HandshakesFailed counts accepted connections that did not become ones of a verified peer.
	HandshakesFailed uint64
	// Revoked counts handshakes that failed, dialed ones too, and connections that were cut since the other end's
	// certificate is revoked.
	Revoked uint64
	// Reused counts dials that needed no handshake, since an earlier connection to the endpoint could be used again.
	Reused uint64
	// Early counts calls of ours that were not made since the callee was sure to deny them. They are in none of the others.
	Early uint64
	// Gossip counts what others sent to our gossip that was refused.
	Gossip gossip.Refused
	// Observes is set while this process is no member of the gossip pool but observes it: the pool is large, and nothing listens here.
	Observes bool
}

// Stats returns the counters.
func (m *Mesh) Stats() Stats {
	s := m.decisions.stats()
	s.Reused = m.warm.reused.Load()
	if m.gossip != nil {
		s.Gossip, s.Observes = m.gossip.Refused(), m.gossip.Observes()
	}
	return s
}

// decisionLog counts decisions, and logs those that somebody may have to explain. What callers can cause is logged at a
// bounded rate, so that a scanner does not fill a disk: what was left out is counted, and told with the next record.
type decisionLog struct {
	log    *slog.Logger
	sample uint64 // log one in so many allowed decisions; 0 none

	counts     [policy.LayerGRPC + 1][policy.Allow + 1]atomic.Uint64
	would      [policy.Allow + 1]atomic.Uint64
	cuts       atomic.Uint64
	handshakes atomic.Uint64
	revoked    atomic.Uint64
	notCalled  atomic.Uint64

	known, strangers logBucket // what verified peers cause, and what anybody can
}

// A logBucket is full of tokens, of which each record takes one. The zero value is full.
type logBucket struct {
	mu      sync.Mutex
	tokens  float64
	last    time.Time
	dropped uint64
}

// logRate is how many records a second are written for long, logBurst how many at once.
const (
	logRate  = 10
	logBurst = 100
)

func newDecisionLog(log *slog.Logger, sample int) *decisionLog {
	return &decisionLog{log: log, sample: uint64(max(sample, 0))}
}

func (l *decisionLog) stats() Stats {
	s := Stats{
		WouldDeny: l.would[policy.Deny].Load(), WouldAllow: l.would[policy.Allow].Load(),
		Cut: l.cuts.Load(), HandshakesFailed: l.handshakes.Load(), Revoked: l.revoked.Load(), Early: l.notCalled.Load(),
	}
	for i := range l.counts {
		for j := range l.counts[i] {
			s.Decisions[i][j] = l.counts[i][j].Load()
		}
	}
	return s
}

// record counts a decision, and logs what audit and dry-run documents make of it and samples of what is allowed.
func (l *decisionLog) record(ctx context.Context, r *policy.Request, d *policy.Decision) {
	var n uint64
	if d.Layer <= policy.LayerGRPC && d.Verdict <= policy.Allow {
		n = l.counts[d.Layer][d.Verdict].Add(1)
	}
	if d.Shadow != nil {
		l.shadow(ctx, r, d)
	}
	if d.Verdict == policy.Allow && l.sample > 0 && n%l.sample == 0 {
		l.allowed(ctx, r, d)
	}
}

func (l *decisionLog) allowed(ctx context.Context, r *policy.Request, d *policy.Decision) {
	l.write(ctx, slog.LevelInfo, "allowed", append(requestAttrs(r), decisionAttrs(*d)...))
}

func (l *decisionLog) shadow(ctx context.Context, r *policy.Request, d *policy.Decision) {
	s := d.Shadow
	if s.Verdict != d.Verdict {
		l.would[s.Verdict].Add(1)
	}
	for _, m := range s.Matches {
		l.write(ctx, slog.LevelInfo, "policy on record", append(requestAttrs(r),
			slog.String("policy", m.Policy), slog.Int("rule", m.Rule), slog.Any("action", m.Action), slog.Any("mode", m.Mode),
			slog.String("verdict", d.Verdict.String()), slog.String("would_be", s.Verdict.String()), slog.Uint64("rules_version", d.Version)))
	}
}

func (l *decisionLog) denied(ctx context.Context, d *DeniedError, r *policy.Request, p Peer) {
	l.write(ctx, slog.LevelWarn, "denied", deniedAttrs(d, r, p))
}

// early counts a call of ours that was not made.
func (l *decisionLog) early(ctx context.Context, d *DeniedError, r *policy.Request, addr netip.AddrPort) {
	l.notCalled.Add(1)
	l.write(ctx, slog.LevelWarn, "denied early: not called", deniedAttrs(d, r, Peer{Addr: addr}))
}

func (l *decisionLog) cut(ctx context.Context, d *DeniedError, r *policy.Request, p Peer) {
	l.cuts.Add(1)
	l.write(ctx, slog.LevelWarn, "cut: no longer allowed", deniedAttrs(d, r, p))
}

func (l *decisionLog) refused(ctx context.Context, r *policy.Request, p Peer, err error) {
	l.write(ctx, slog.LevelWarn, "refused: ambiguous request", append(requestAttrs(r),
		slog.String("addr", p.Addr.String()), slog.String("error", err.Error())))
}

// handshake counts an accepted connection that came to nothing. What anybody can cause is not worth a record; a revoked
// certificate is.
func (l *decisionLog) handshake(ctx context.Context, addr, port string, err error) {
	l.handshakes.Add(1)
	if r, ok := errors.AsType[*policy.RevokedError](err); ok {
		l.write(ctx, slog.LevelWarn, "refused: the certificate is revoked", []slog.Attr{
			slog.String("source", r.ID.String()), slog.String("serial", r.Serial), slog.Uint64("rules_version", r.Version),
			slog.String("reason", r.Reason), slog.String("port", port), slog.String("addr", addr),
		})
		return
	}
	l.writeIn(ctx, &l.strangers, slog.LevelDebug, "handshake failed", []slog.Attr{
		slog.String("addr", addr), slog.String("port", port), slog.String("error", err.Error()),
	})
}

// unaccepted is about a connection that was dropped since the application does not accept.
func (l *decisionLog) unaccepted(ctx context.Context, p Peer) {
	l.write(ctx, slog.LevelWarn, "connection dropped: the application does not accept", peerAttrs(p))
}

// unanswered is about a member's question that came to nothing.
func (l *decisionLog) unanswered(ctx context.Context, p Peer, err error) {
	l.write(ctx, slog.LevelDebug, "a peer's question failed", append(peerAttrs(p), slog.String("error", err.Error())))
}

func peerAttrs(p Peer) []slog.Attr {
	return []slog.Attr{slog.String("source", p.ID.String()), slog.String("port", p.Port), slog.String("addr", p.Addr.String())}
}

func (l *decisionLog) write(ctx context.Context, level slog.Level, msg string, attrs []slog.Attr) {
	l.writeIn(ctx, &l.known, level, msg, attrs)
}

func (l *decisionLog) writeIn(ctx context.Context, b *logBucket, level slog.Level, msg string, attrs []slog.Attr) {
	if !l.log.Enabled(ctx, level) {
		return
	}
	b.mu.Lock()
	now := time.Now()
	b.tokens = min(logBurst, b.tokens+now.Sub(b.last).Seconds()*logRate)
	b.last = now
	dropped := b.dropped
	if b.tokens < 1 {
		b.dropped++
		b.mu.Unlock()
		return
	}
	b.tokens--
	b.dropped = 0
	b.mu.Unlock()
	if dropped > 0 {
		attrs = append(attrs, slog.Uint64("records_left_out", dropped))
	}
	args := make([]any, len(attrs)) // [slog.Logger.LogAttrs] would be 7 KB of every program
	for i, a := range attrs {
		args[i] = a
	}
	l.log.Log(ctx, level, msg, args...)
}

func deniedAttrs(d *DeniedError, r *policy.Request, p Peer) []slog.Attr {
	return append(append(requestAttrs(r), decisionAttrs(d.Decision)...), slog.String("addr", p.Addr.String()))
}

func decisionAttrs(d policy.Decision) []slog.Attr {
	return []slog.Attr{
		slog.String("policy", d.Policy), slog.Int("rule", d.Rule), slog.Uint64("rules_version", d.Version),
		slog.String("layer", d.Layer.String()), slog.String("reason", d.Reason),
	}
}

// maxLogged bounds what a caller chose and a log repeats.
const maxLogged = 256

func requestAttrs(r *policy.Request) []slog.Attr {
	attrs := []slog.Attr{slog.String("source", r.Source.String()), slog.String("destination", joinTarget(r.Destination, r.Port))}
	switch r.Layer {
	case policy.LayerHTTP:
		attrs = append(attrs, slog.String("method", cut(r.Method)), slog.String("path", cut(r.Path)), slog.String("host", cut(r.Host)))
	case policy.LayerGRPC:
		attrs = append(attrs, slog.String("method", cut(r.GRPCMethod)))
	case policy.LayerConnection:
	}
	return attrs
}

func cut(s string) string {
	if len(s) > maxLogged {
		return s[:maxLogged] + "…"
	}
	return s
}

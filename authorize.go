package mesh

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/intramesh/mesh/policy"
)

// Authorize decides one request of the peer that ctx carries (see [ContextWithPeer]), for adapters
// of protocols that this package does not know. It fills in r's Source, SourceAddr, Destination and Port
// from the connection and returns nil or a *DeniedError. Without a peer of this mesh in ctx it denies.
//
// It decides once. For what goes on for longer than a moment, use [Mesh.Admit].
func (m *Mesh) Authorize(ctx context.Context, r *policy.Request) error {
	p, _ := PeerFromContext(ctx)
	sc, err := m.connOfPeer(p, r.Layer)
	if err != nil {
		return err
	}
	sc.fill(r)
	r.Tokens = m.cfg.Tokens
	dec := sc.rules.Authorize(ctx, r)
	if d := sc.decideRequest(ctx, r, &dec); d != nil {
		m.decisions.denied(ctx, d, r, sc.net.peer)
		return d
	}
	return nil
}

// connOfPeer finds a peer's connection.
func (m *Mesh) connOfPeer(p Peer, layer policy.Layer) (*serverConn, error) {
	if p.conn == nil || p.conn.mesh != m {
		return nil, &DeniedError{
			Source: p.ID.String(), Destination: m.service,
			Decision: policy.Decision{Rule: -1, Layer: layer, Tell: p.ID.MemberOf(m.trustDomain), Reason: "the request did not come in by a listener of this mesh"},
		}
	}
	return p.conn, nil
}

// retryTime bounds how long a request waits for what its decision lacks, an issuer's keys for example.
const retryTime = 2 * time.Second

// A decision about a request goes by pointer, and what is rarely needed has functions of its own: handlers of HTTP/2 run on new
// goroutines, where each kilobyte of stack more is grown, and copied, once for each request.

// decideRequest acts on what the rules said of a request, which can wait a little.
func (sc *serverConn) decideRequest(ctx context.Context, r *policy.Request, dec *policy.Decision) *DeniedError {
	if mayChange(dec) {
		sc.awaitChange(ctx, r, dec)
	}
	return sc.mesh.decided(ctx, r, dec)
}

func (sc *serverConn) awaitChange(ctx context.Context, r *policy.Request, dec *policy.Decision) {
	m := sc.mesh
	wait, cancel := context.WithTimeout(ctx, retryTime)
	defer cancel()
	for mayChange(dec) && wait.Err() == nil && m.ctx.Err() == nil {
		select {
		case <-dec.Retry:
			*dec = sc.rules.Authorize(ctx, r)
		case <-wait.Done():
		case <-m.ctx.Done():
		}
	}
}

// mayChange reports whether a denial may come out otherwise in a moment.
func mayChange(d *policy.Decision) bool { return d.Verdict != policy.Allow && d.Retry != nil }

// decided counts a decision, and makes a denial an error.
func (m *Mesh) decided(ctx context.Context, r *policy.Request, dec *policy.Decision) *DeniedError {
	if dec.Verdict == policy.Allow && !dec.NotAfter.IsZero() && !time.Now().Before(dec.NotAfter) {
		dec.Verdict, dec.Reason = policy.Deny, "what allowed it has ended"
	}
	m.decisions.record(ctx, r, dec)
	m.trace.decided(r, dec)
	if dec.Verdict == policy.Allow {
		return nil
	}
	return m.newDenied(r, dec)
}

func (m *Mesh) newDenied(r *policy.Request, dec *policy.Decision) *DeniedError {
	dec.Retry = nil
	dec.Tell = dec.Tell && r.Source.MemberOf(m.trustDomain) // others learn nothing, whatever the Authorizer says
	return &DeniedError{Source: r.Source.String(), Destination: r.Destination, Port: r.Port, Decision: *dec}
}

// DeferToRequests declares that whoever serves the named ports (none given: the default one) decides each
// request with [Mesh.Authorize]. Their listeners then admit every peer that some request could be allowed for,
// and leave the rest to those decisions: calling it without making them opens the port. [Mesh.Handler] and
// meshgrpc call it.
func (m *Mesh) DeferToRequests(port ...string) {
	if len(port) == 0 {
		port = []string{""}
	}
	m.mu.Lock()
	m.refuseHTTP = refuseHTTP
	for _, p := range port {
		m.deferred[p] = true
	}
	m.mu.Unlock()
	m.checkRules()
}

func (m *Mesh) defers(port string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.deferred[port]
}

// httpRefusal is how an HTTP client is told of a refusal, nil when this program serves no HTTP.
func (m *Mesh) httpRefusal() func(context.Context, *serverConn, *tls.Conn, *DeniedError) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refuseHTTP
}

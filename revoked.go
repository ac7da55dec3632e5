package mesh

import (
	"errors"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/policy"
)

// revoked returns a *policy.RevokedError when the rules revoke a certificate that a peer has shown.
func (m *Mesh) revoked(p Peer) error {
	err := policy.EngineOf(m.policy).Revoked(p.ID, p.chain)
	if err != nil {
		m.decisions.revoked.Add(1)
	}
	return err
}

// cutRevoked ends all open connections, accepted or dialed, of peers whose certificates have been revoked.
func (m *Mesh) cutRevoked(p *stint) {
	for _, sc := range m.conns.all() {
		if err := m.revoked(sc.net.peer); err != nil {
			sc.cutUntrusted(err)
		}
		p.rest()
	}
	for n, end := range m.dialed.all() {
		p.rest()
		err := m.revoked(n.peer)
		if err == nil {
			continue
		}
		d := &DeniedError{Source: m.ID().String(), Destination: identity.ServiceName(n.peer.ID), Decision: notTrusted(err), cause: err}
		m.decisions.cut(m.ctx, d, &policy.Request{Source: m.ID(), Destination: d.Destination}, n.peer)
		m.trace.connCut(n.peer, d)
		end(d)
	}
	m.warnIfRevoked()
}

// notTrusted is the decision about a peer whose certificate is not, or no longer, one to be trusted.
func notTrusted(err error) policy.Decision {
	d := policy.Decision{Rule: -1, Layer: policy.LayerConnection, Reason: "the certificate is no longer valid: " + err.Error()}
	if r, ok := errors.AsType[*policy.RevokedError](err); ok {
		d.Version, d.Reason = r.Version, r.Error()
	}
	return d
}

// warnIfRevoked tells the operator what nobody tells us any more: peers refuse us. It refuses nothing by itself, so that
// a revocation that is taken back is at an end.
func (m *Mesh) warnIfRevoked() {
	svid, err := m.identity.GetX509SVID()
	if err != nil {
		return // the source says so itself
	}
	if err := policy.EngineOf(m.policy).Revoked(svid.ID, svid.Certificates); err != nil {
		m.log.Error("this process's own certificate is revoked: no peer talks to it until it has enrolled anew", "error", err)
	}
}

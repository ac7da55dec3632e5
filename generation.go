package mesh

import (
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// What a connection was made under may change: the rules, the certificate of this process, whom it trusts. A change ends the
// reuse of all connections, since it is the simplest way never to use one for longer than it should be.

// generation tells what is in force, and when it is no longer.
type generation struct {
	number       uint64
	rules, trust <-chan struct{} // closed by a change; nil when there is none, or none is announced
}

// credentials are what this side brings to a handshake.
type credentials struct {
	gen  uint64
	leaf *x509.Certificate
}

// credentials returns those in force. A handshake that begins later may use newer ones: its connection is then
// taken for an older one than it is.
func (m *Mesh) credentials() credentials {
	c := credentials{gen: m.generation.Load().number}
	if svid, err := m.identity.GetX509SVID(); err == nil {
		c.leaf = leafOf(svid)
	}
	return c
}

func leafOf(svid *x509svid.SVID) *x509.Certificate { return svid.Certificates[0] }

// nextGeneration begins a generation, and sends off what waits for another stream.
func (m *Mesh) nextGeneration(rules, trust <-chan struct{}) {
	m.generation.Store(&generation{number: m.generation.Load().number + 1, rules: rules, trust: trust})
	m.warm.empty()
	for _, l := range m.allListeners() {
		l.lot.empty()
	}
	m.endBrief(nil)
}

// current reports whether nothing has changed since the link's handshake began.
func (m *Mesh) current(l *link, now time.Time) bool {
	g := m.generation.Load()
	if l.gen != g.number || happened(g.rules) || happened(g.trust) || now.After(l.net.peer.Expiry) {
		return false
	}
	svid, err := m.identity.GetX509SVID()
	return err == nil && leafOf(svid) == l.leaf
}

// checkTime is how long a certificate is believed to be valid for another stream, where no change is announced.
const checkTime = 100 * time.Millisecond

// unchecked reports whether the peer's certificate is to be verified before another stream.
func (m *Mesh) unchecked(l *link) bool {
	now := time.Now()
	if now.Before(l.net.peer.Expiry) && (m.announced || now.Sub(l.checked) < checkTime) {
		return false
	}
	l.checked = now
	return true
}

func happened(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

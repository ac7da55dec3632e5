package mesh

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// errWrongPeer is inside a [DialError] when a verified certificate answers that belongs to another service.
var errWrongPeer = errors.New("another service answered")

// baseTLS is what both sides have in common. Peers are verified in VerifyConnection alone: it also runs when a
// session is resumed, which VerifyPeerCertificate does not.
func (m *Mesh) baseTLS(alpn []string, verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         alpn,
		InsecureSkipVerify: true, //nolint:gosec // it skips the host name check alone: VerifyConnection verifies the SVID
		VerifyConnection:   verify,
		// A frame is one record from the first byte on; and the first response on a connection is faster.
		DynamicRecordSizingDisabled: true,
	}
}

// serverTLS is a listener's. Session tickets stay on: every resumed session is verified and
// authorized like a new one.
func (m *Mesh) serverTLS(alpn []string) *tls.Config {
	c := m.baseTLS(alpn, func(cs tls.ConnectionState) error {
		_, err := m.verify(cs.PeerCertificates)
		if err == nil && !cs.DidResume {
			m.credential.Share(cs.PeerCertificates) // those of the connection: it is the same slice
		}
		return err
	})
	c.ClientAuth = tls.RequireAnyClientCert
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.credential.Certificate() }
	return c
}

// clientTLS is that of one dial. The certificate that answers must be the service's, in our own trust domain; for an
// empty name, that of any service there.
func (m *Mesh) clientTLS(service string, alpn []string) *tls.Config {
	c := m.baseTLS(alpn, func(cs tls.ConnectionState) error {
		id, err := m.verify(cs.PeerCertificates)
		if err != nil {
			return err
		}
		if service == "" && id.MemberOf(m.trustDomain) {
			return nil
		}
		if want := m.idOf(service); id != want {
			return fmt.Errorf("%w: want %s, got %s", errWrongPeer, want, id)
		}
		return nil
	})
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.credential.Certificate() }
	return c
}

// verify returns whose certificate a peer showed, when it is valid and not revoked. That it is valid may be remembered from
// an earlier handshake; whether it is revoked is asked each time.
func (m *Mesh) verify(chain []*x509.Certificate) (spiffeid.ID, error) {
	id, err := m.credential.Verify(chain)
	if err != nil {
		return id, err
	}
	return id, m.revoked(Peer{ID: id, chain: chain})
}

// idOf is the ID of a service of our trust domain.
func (m *Mesh) idOf(service string) spiffeid.ID {
	id, err := spiffeid.FromPath(m.trustDomain, "/"+service)
	if err != nil {
		return spiffeid.ID{} // no certificate has it
	}
	return id
}

// newPeer describes the verified other end of a finished handshake.
func (m *Mesh) newPeer(n *netConn, cs tls.ConnectionState) Peer {
	p := Peer{Addr: addrPort(n.RemoteAddr()), chain: cs.PeerCertificates}
	id, until, err := m.credential.VerifyUntil(p.chain)
	if p.ID, p.Expiry = id, until; err != nil { // the authorities changed this moment: it is decided again
		leaf := p.chain[0]
		p.ID, _ = spiffeid.FromURI(leaf.URIs[0]) // VerifyConnection has read the same field
		p.Expiry = leaf.NotAfter
	}
	return p
}

package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"time"
)

// What streams negotiate, so that no connection made for something else ends here: those of members, and those of observers.
const (
	ALPN        = "mesh-gossip/1"
	ALPNObserve = "mesh-observe/1"
)

// An Identity shows who this process is, and tells whom a certificate belongs to.
type Identity interface {
	Certificate() (*tls.Certificate, error)
	VerifyMember(chain []*x509.Certificate) (service string, err error)
}

// config is for both ends of a stream. A peer is verified before a byte of the stream is read.
func config(id Identity, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protocols,
		SessionTicketsDisabled: true, // a stream is one message each way, with another member each time
		InsecureSkipVerify:     true, //nolint:gosec // it skips the host name check alone: VerifyConnection verifies the member
		ClientAuth:             tls.RequireAnyClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol == "" { // else it is one of ours
				return errors.New("gossip: the peer does not speak " + protocols[0])
			}
			_, err := id.VerifyMember(cs.PeerCertificates)
			return err
		},
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.Certificate() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.Certificate() },
	}
}

// A Dialer opens streams. Without an Identity they are not TLS.
type Dialer struct {
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	Identity Identity
}

// Open connects, and shakes hands for one of the protocols above when there is an Identity.
func (d Dialer) Open(ctx context.Context, address, protocol string) (net.Conn, error) {
	conn, err := d.Dial(ctx, "tcp", address)
	if err != nil || d.Identity == nil {
		return conn, err
	}
	c := tls.Client(conn, config(d.Identity, protocol))
	if err := c.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the error that counts is in hand
		return nil, err
	}
	return c, nil
}

// Chain returns the verified certificates of the member at address. Nothing is said but hello.
func (d Dialer) Chain(ctx context.Context, address string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, StreamTimeout)
	defer cancel()
	conn, err := d.Open(ctx, address, ALPN)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c, ok := conn.(*tls.Conn)
	if !ok {
		return nil, errors.New("gossip: the pool has no identities")
	}
	return c.ConnectionState().PeerCertificates, nil
}

// accepted shakes hands on a stream that somebody opened.
func (t *Transport) accepted(s *stream) error {
	if t.tls == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(t.ctx, StreamTimeout)
	defer cancel()
	c := tls.Server(s.Conn, t.tls)
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	s.Conn, s.observer = c, c.ConnectionState().NegotiatedProtocol == ALPNObserve
	return s.SetDeadline(time.Now().Add(StreamTimeout))
}

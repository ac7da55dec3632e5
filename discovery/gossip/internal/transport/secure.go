package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"time"
)

// ALPN is what streams negotiate, so that no connection made for something else ends here.
const ALPN = "mesh-gossip/1"

// An Identity shows who this process is, and tells whom a certificate belongs to.
type Identity interface {
	Certificate() (*tls.Certificate, error)
	VerifyMember(chain []*x509.Certificate) (service string, err error)
}

// config is for both ends of a stream. A peer is verified before a byte of the stream is read.
func config(id Identity) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		SessionTicketsDisabled: true, // a stream is one message each way, with another member each time
		InsecureSkipVerify:     true, //nolint:gosec // it skips the host name check alone: VerifyConnection verifies the member
		ClientAuth:             tls.RequireAnyClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != ALPN {
				return errors.New("gossip: the peer does not speak " + ALPN)
			}
			_, err := id.VerifyMember(cs.PeerCertificates)
			return err
		},
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.Certificate() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.Certificate() },
	}
}

// dial connects, and shakes hands when the pool has identities.
func (t *Transport) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := t.cfg.Dial(ctx, "tcp", address)
	if err != nil || t.tls == nil {
		return conn, err
	}
	c := tls.Client(conn, t.tls)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the error that counts is in hand
		return nil, err
	}
	return c, nil
}

// Chain returns the verified certificates of the member at address. Nothing is said but hello.
func (t *Transport) Chain(ctx context.Context, address string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, StreamTimeout)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	conn, err := t.dial(ctx, address)
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
	s.Conn = c
	return s.SetDeadline(time.Now().Add(StreamTimeout))
}

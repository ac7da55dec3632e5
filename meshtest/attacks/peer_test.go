package attacks

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/intramesh/mesh/internal/h2raw"
	"github.com/intramesh/mesh/internal/testca"
	"golang.org/x/net/http2"
)

// errRefused ends an attack: the server has had enough of it, which is well.
var errRefused = errors.New("refused")

// A peer is one attacker. Its methods panic with errRefused once the server no longer plays along; attack catches that.
type peer struct {
	*world
	who  string
	mine []net.Conn
}

// attack runs one until the server has had enough or it has done what it wanted.
func (p *peer) attack(do func(*peer)) {
	defer func() {
		if err := recover(); err != nil && err != errRefused { //nolint:errorlint // it is the value that was thrown
			panic(err)
		}
	}()
	do(p)
}

func must(err error) {
	if err != nil {
		panic(errRefused)
	}
}

// dial connects, without a handshake. The connection stays open until the end of the attack.
func (p *peer) dial() net.Conn {
	network := p.network
	if network == nil {
		network = p.net.Network()
	}
	c, err := network.DialContext(p.t.Context(), "tcp", p.addr)
	must(err)
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetReadBuffer(smallBuffer)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns, p.mine = append(p.conns, c), append(p.mine, c)
	_ = c.SetDeadline(time.Now().Add(2 * p.idle))
	return c
}

// leave closes all that the attacker has.
func (p *peer) leave() {
	for _, c := range p.mine {
		_ = c.Close()
	}
}

// pause waits for a second, or until the attack is over.
func (w *world) pause() {
	select {
	case <-time.After(time.Second):
	case <-w.over:
		panic(errRefused)
	}
}

// byteBySecond reads so for two minutes.
func (w *world) byteBySecond(c net.Conn) {
	b := make([]byte, 1)
	for range 120 {
		_ = c.SetDeadline(time.Now().Add(2 * w.idle))
		_, err := c.Read(b)
		must(err)
		w.pause()
	}
}

func (p *peer) config() *tls.Config {
	svid, err := p.known[p.who].GetX509SVID()
	must(err)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{p.col.alpn},
		Certificates: []tls.Certificate{testca.Certificate(svid)},
	}
}

// tls connects as the attacker.
func (p *peer) tls() *tls.Conn { return p.shake(p.config()) }

func (p *peer) shake(c *tls.Config) *tls.Conn {
	t := tls.Client(p.dial(), c)
	must(t.HandshakeContext(p.t.Context()))
	return t
}

// records connects as the attacker, who makes his records himself.
func (p *peer) records() *records {
	var keys bytes.Buffer
	c := p.config()
	c.KeyLogWriter = &keys
	r, err := newRecords(p.shake(c), &keys, "CLIENT_TRAFFIC_SECRET_0")
	if errors.Is(err, errOtherSuite) {
		p.t.Skip(err)
	}
	must(err)
	return r
}

// drain reads in the background whatever the server sends.
func drain(c io.Reader) { go func() { _, _ = io.Copy(io.Discard, c) }() }

// frames begins HTTP/2, and reads what comes.
func (p *peer) frames() *http2.Framer {
	c := p.tls()
	drain(c)
	return begin(c)
}

func begin(c io.ReadWriter) *http2.Framer {
	_, err := io.WriteString(c, http2.ClientPreface)
	must(err)
	f := http2.NewFramer(c, c)
	f.AllowIllegalWrites, f.AllowIllegalReads = true, true
	must(f.WriteSettings())
	return f
}

// web begins HTTP/2 with requests.
func (p *peer) web() (*tls.Conn, *h2raw.Conn) {
	c := p.tls()
	h, err := h2raw.New(c)
	must(err)
	return c, h
}

// request is the head of one that keeps a handler busy: /hold, or a gRPC stream.
func (p *peer) request(path string) []h2raw.Field {
	f := []h2raw.Field{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "payments"}, {Name: ":path", Value: path}}
	if p.col.name == "grpc" {
		f[0].Value, f[3].Value = "POST", "/grpc.testing.TestService/FullDuplexCall"
		f = append(f, h2raw.Field{Name: "content-type", Value: "application/grpc"}, h2raw.Field{Name: "te", Value: "trailers"})
	}
	return f
}

// again calls f n times, which is multiplied by the dose.
func again(n int, f func(i int)) {
	for i := range n * dose() {
		f(i)
	}
}

func write(c io.Writer, b ...string) {
	for _, s := range b {
		_, err := io.WriteString(c, s)
		must(err)
	}
}

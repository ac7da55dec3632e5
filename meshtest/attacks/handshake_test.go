package attacks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"time"
)

// mute lets through so many writes, and then swallows what is written; without reads, nothing comes in.
type mute struct {
	net.Conn
	writes int
	reads  bool
}

func (m *mute) Write(b []byte) (int, error) {
	if m.writes--; m.writes < 0 {
		return len(b), nil
	}
	return m.Conn.Write(b)
}

func (m *mute) Read(b []byte) (int, error) {
	if !m.reads {
		return 0, io.EOF
	}
	return m.Conn.Read(b)
}

// half makes the beginning of a handshake.
func (p *peer) half(writes int, reads bool) {
	t := tls.Client(&mute{p.dial(), writes, reads}, p.config())
	_ = t.HandshakeContext(p.t.Context())
}

// perConn is what a connection holds, the attacker's end included, before anybody knows whose it is: at most 1,024 of them are in a
// handshake at once.
const perConn = 56 << 10

// handshakeAttacks are what strangers can do.
func handshakeAttacks() []attack {
	all := []attack{
		{name: "says nothing", do: func(p *peer) { p.dial() }},
		{name: "stalls within a record header", do: func(p *peer) { write(p.dial(), "\x16\x03") }},
		{name: "stalls within its hello", do: func(p *peer) { write(p.dial(), "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") }},
		{name: "stalls after its hello", do: func(p *peer) { p.half(1, false) }},
		{name: "stalls before its certificate", do: func(p *peer) { p.half(1, true) }},
		{name: "sends a hello of a megabyte", do: func(p *peer) {
			c := p.dial()
			write(c, "\x16\x03\x01\x40\x00\x01\x0f\xff\xfc"+strings.Repeat("x", 1<<14-4))
			again(64, func(int) { write(c, "\x16\x03\x01\x40\x00"+strings.Repeat("x", 1<<14)) })
		}},
		{name: "sends a hello byte by byte", do: func(p *peer) {
			c := p.dial()
			write(c, "\x16\x03\x01\x00\x04\x01\x00\xff\xfc")
			again(20000, func(int) { write(c, "\x16\x03\x01\x00\x01x") })
		}},
		{name: "sends empty records", do: func(p *peer) {
			c := p.dial()
			again(2000, func(int) { write(c, "\x16\x03\x01\x00\x00") })
		}},
		{name: "sends alerts", do: func(p *peer) {
			c := p.dial()
			again(2000, func(int) { write(c, "\x15\x03\x01\x00\x02\x01\x5a") })
		}},
		{name: "sends garbage", do: func(p *peer) {
			b := make([]byte, 4096)
			_, _ = rand.Read(b)
			write(p.dial(), string(b))
		}},
		{name: "speaks HTTP in the clear", do: func(p *peer) { write(p.dial(), "GET / HTTP/1.1\r\nHost: payments\r\n\r\n") }},
		{name: "speaks TLS 1.2", do: func(p *peer) {
			c := p.config()
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			p.shake(c)
		}},
		{name: "speaks no protocol of ours", do: func(p *peer) {
			c := p.config()
			c.NextProtos = []string{"spdy/1"}
			p.shake(c)
		}},
		{name: "has no certificate", do: func(p *peer) {
			c := p.config()
			c.Certificates = nil
			p.shake(c)
		}},
		{name: "has another authority's certificate, and does not wait", do: func(p *peer) {
			c := p.tls()
			again(64, func(int) { write(c, strings.Repeat("x", 16<<10)) })
		}},
		{name: "has a very long chain", do: func(p *peer) {
			c := p.config()
			chain := &c.Certificates[0].Certificate
			for len(*chain) < 300 {
				*chain = append(*chain, (*chain)[1])
			}
			p.shake(c)
		}},
		{name: "has a certificate of 5,000 names", do: func(p *peer) {
			c := p.config()
			c.Certificates = []tls.Certificate{manyNames()}
			p.shake(c)
		}},
		{name: "leaves at once", holds: 4 << 20, do: func(p *peer) {
			again(300, func(int) { _ = p.dial().Close() })
		}},
		{name: "floods connections", holds: 1100 * perConn, do: func(p *peer) {
			again(750, func(int) { p.dial() })
		}},
		{name: "floods hellos", holds: 1100 * perConn, do: func(p *peer) {
			again(600, func(int) { p.half(1, false) })
		}},
	}
	for i := range all {
		all[i].who, all[i].refused, all[i].on = anonymous(), true, "raw" // it is the same for all
		if all[i].holds == 0 {
			all[i].holds = 2 << 20
		}
	}
	return all
}

func manyNames() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	for i := range 5000 {
		c.DNSNames = append(c.DNSNames, fmt.Sprintf("name-%d.example", i))
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// recordAttacks are what can be done below any protocol once the handshake is over.
func recordAttacks() []attack {
	return []attack{
		{name: "says nothing afterwards", do: func(p *peer) { p.tls() }},
		{name: "stalls within a record", do: func(p *peer) { write(p.records(), "\x17\x03\x03\x40\x00xx") }},
		{name: "sends a record that is too long", do: func(p *peer) { must(p.records().record(recordApplication, make([]byte, 1<<14+1))) }},
		{name: "sends a record that is no ciphertext", do: func(p *peer) { write(p.records(), "\x17\x03\x03\x00\x20"+strings.Repeat("x", 32)) }},
		{name: "sends records without content", do: func(p *peer) {
			r := p.records()
			drain(r)
			again(2000, func(int) { must(r.record(recordApplication, nil)) })
		}},
		{name: "sends alerts afterwards", do: func(p *peer) {
			r := p.records()
			drain(r)
			again(2000, func(int) { must(r.record(recordAlert, []byte{1, 90})) })
		}},
		{name: "renegotiates", do: func(p *peer) {
			r := p.records()
			again(50, func(int) { must(r.record(recordHandshake, []byte{1, 0, 0, 2, 3, 3})) })
		}},
		{name: "sends a large handshake message", do: func(p *peer) {
			// Of one that is longer than it takes, crypto/tls complains without the lock that its writers have (Go 1.26, readHandshake):
			// the race detector would speak of that alone.
			r := p.records()
			must(r.record(recordHandshake, []byte{11, 0, 0xff, 0xff}))
			again(64, func(int) { must(r.record(recordHandshake, make([]byte, 1<<14))) })
		}},
		{name: "updates keys without end", do: func(p *peer) {
			r := p.records()
			drain(r)
			again(2000, func(int) { must(r.keyUpdate(false)) })
		}},
		{name: "has keys updated without end", do: func(p *peer) {
			r := p.records()
			again(2000, func(int) { must(r.keyUpdate(true)) })
		}},
		{name: "ends its direction below TLS", do: func(p *peer) {
			c := p.tls().NetConn().(interface{ CloseWrite() error })
			must(c.CloseWrite())
		}},
		{name: "ends its direction and stays", do: func(p *peer) { must(p.tls().CloseWrite()) }},
		{name: "leaves at once, again and again", times: 1, holds: 4 << 20, do: func(p *peer) {
			again(50, func(int) { _ = p.tls().NetConn().Close() })
		}},
		{name: "floods connections that are refused", on: "http1", who: []string{denied}, times: 1, holds: 1100 * perConn, do: func(p *peer) {
			c := p.config()
			again(1100, func(int) { p.shake(c) })
		}},
		{name: "floods questions of members", on: "http1", who: []string{denied}, asks: true, times: 1, holds: 1100 * perConn, do: func(p *peer) {
			c := p.config()
			c.NextProtos = []string{"mesh-peer/1"}
			again(1100, func(int) { p.shake(c) })
		}},
	}
}

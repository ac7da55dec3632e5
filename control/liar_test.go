package control_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
)

// A liar is a member that answers its peers' questions as a test wants.
type liar struct {
	addr  string
	asked chan string // the paths that it had an answer for, as long as there is room

	mu      sync.Mutex
	answers map[string][]byte // by path; for others it closes the connection
}

func newLiar(t *testing.T, id identity.Source, answers map[string][]byte) *liar {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{addr: ln.Addr().String(), answers: answers, asked: make(chan string, 16)}
	conf := peerTLS(t, id)
	conf.ClientAuth = tls.RequireAnyClientCert
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { l.answer(tls.Server(c, conf)) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return l
}

func (l *liar) answer(c net.Conn) {
	defer c.Close()
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	l.mu.Lock()
	body, ok := l.answers[req.URL.Path]
	l.mu.Unlock()
	if !ok {
		return
	}
	select {
	case l.asked <- req.URL.Path:
	default:
	}
	resp := http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Close: true,
		ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}
	_ = resp.Write(c) // whoever asked may have had enough
}

func (l *liar) say(path string, answer []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers[path] = answer
}

// peerTLS is for asking questions, or answering them, in the name of a member.
func peerTLS(t *testing.T, id identity.Source) *tls.Config {
	t.Helper()
	svid, err := id.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"mesh-peer/1"}, InsecureSkipVerify: true,
		Certificates: []tls.Certificate{testca.Certificate(svid)},
	}
}

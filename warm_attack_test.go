package mesh_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/meshtest"
)

// The frames of "mesh/2", as a peer without our code may send them.
const (
	fData byte = iota + 0xF5
	fEnd
	fReset
	fOpen
	fClose
	fBye
	fPing
	fBrief
)

func rawFrame(t, epoch byte, payload string) []byte {
	b := []byte{t, epoch, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(len(payload)))
	return append(b, payload...)
}

// bareData is what a peer may send without a header.
var bareData = make([]byte, 16<<10)

func tlsOf(t testing.TB, src identity.Source) *tls.Config {
	t.Helper()
	svid, err := src.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"mesh/2"}, ClientAuth: tls.RequireAnyClientCert,
		Certificates: []tls.Certificate{testca.Certificate(svid)},
	}
}

// rawPeer connects to payments as orders, without our code.
func (w *memWorld) rawPeer() *tls.Conn {
	w.t.Helper()
	inner, err := w.net.Network().DialContext(w.t.Context(), "tcp", w.ln.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	c := tls.Client(inner, tlsOf(w.t, w.client))
	if err := c.HandshakeContext(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// gone waits until the server has closed the connection, and returns what it sent.
func gone(t *testing.T, c net.Conn, within time.Duration) []byte {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(within))
	b, err := io.ReadAll(c)
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		t.Errorf("the connection is still open after %v", within)
	}
	return b
}

// Whatever a client sends ends its own connection at most, soon, and nobody else's.
func TestHostileClient(t *testing.T) {
	over := slices.Concat(rawFrame(fData, 0, "x"), rawFrame(fClose, 0, ""))
	brief := slices.Concat(over, rawFrame(fBrief, 1, "x"))
	for name, send := range map[string][]byte{
		"open within a stream":            rawFrame(fOpen, 1, "x"),
		"a length that can't be":          {fData, 0, 0xff, 0xff},
		"an end with a payload":           rawFrame(fEnd, 0, "x"),
		"data of another stream":          rawFrame(fData, 7, "x"),
		"empty data again and again":      bytes.Repeat(rawFrame(fData, 0, ""), 100),
		"data after the end":              slices.Concat(rawFrame(fEnd, 0, ""), rawFrame(fData, 0, "x")),
		"bare data after the end":         slices.Concat(rawFrame(fEnd, 0, ""), bareData),
		"bare data after the close":       slices.Concat(over, bareData),
		"bare data of another stream":     slices.Concat(brief, rawFrame(fBrief, 2, ""), bareData),
		"data after the close":            slices.Concat(over, rawFrame(fData, 0, "x")),
		"an end after the close":          slices.Concat(over, rawFrame(fEnd, 0, "")),
		"two closes":                      slices.Concat(over, rawFrame(fClose, 0, "")),
		"open of the same stream":         slices.Concat(over, rawFrame(fOpen, 0, "x")),
		"open of a stream too far":        slices.Concat(over, rawFrame(fOpen, 2, "x")),
		"a word that only servers say":    slices.Concat(over, rawFrame(fBye, 0, "")),
		"pings without end":               slices.Concat(over, bytes.Repeat(rawFrame(fPing, 0, ""), 1000)),
		"a ping within a stream":          rawFrame(fPing, 0, ""),
		"a reset between streams":         slices.Concat(over, rawFrame(fReset, 0, "")),
		"half a header between streams":   append(slices.Clone(over), fOpen, 1),
		"silence between streams":         over,
		"half of bare data":               bareData[:9],
		"half a payload, then an ending":  append(rawFrame(fOpen, 1, "xxxx")[:6], 0),
		"a header that never comes whole": {fData, 0},
		"brief within a stream":           rawFrame(fBrief, 1, "x"),
		"a brief one too far":             slices.Concat(brief, rawFrame(fBrief, 3, "x")),
		"a brief one again":               slices.Concat(brief, rawFrame(fBrief, 1, "x")),
		"data of the one before":          slices.Concat(brief, rawFrame(fBrief, 2, "x"), rawFrame(fData, 1, "x")),
		"an end of the one before":        slices.Concat(brief, rawFrame(fBrief, 2, "x"), rawFrame(fEnd, 1, "")),
		"open within one that is not":     slices.Concat(brief, rawFrame(fOpen, 2, "x"), rawFrame(fOpen, 3, "x")),
		"a length that can't be, brief":   append(slices.Clone(brief), fBrief, 2, 0xff, 0xff),
		"a ping within a brief one":       append(slices.Clone(brief), rawFrame(fPing, 1, "")...),
		"silence after a brief one":       append(slices.Clone(brief), rawFrame(fClose, 1, "")...),
		"half a brief one":                append(slices.Clone(brief), rawFrame(fBrief, 2, "xxxx")[:6]...),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *memWorld) {
				c := w.rawPeer()
				defer c.Close()
				_, _ = c.Write(send)
				synctest.Wait()
				w.expect(false)
				if name == "a header that never comes whole" || name == "half a brief one" || name == "half of bare data" { // a stream that is open: the application's to end
					w.ln.Close()
					w.payments.Close()
				}
				gone(t, c, 2*time.Minute)
			})
		})
	}
}

// Streams whose end the peer never reads about are bounded by what the network holds.
func TestClientThatNeverReads(t *testing.T) {
	bubble(t, func(t *testing.T, w *memWorld) {
		c := w.rawPeer()
		defer c.Close()
		start, n := time.Now(), 0
		_ = c.SetWriteDeadline(start.Add(time.Minute))
		for epoch := byte(0); n < 1e6; n++ {
			if _, err := c.Write(rawFrame(fClose, epoch, "")); err != nil {
				break
			}
			epoch++
			if _, err := c.Write(rawFrame(fOpen, epoch, "")); err != nil {
				break
			}
		}
		if took := time.Since(start); n == 1e6 || took > 30*time.Second {
			t.Errorf("%d streams in %v", n, took)
		}
		w.expect(false)
	})
}

// A client can't make a server keep any number of idle connections.
func TestIdleConnectionsAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("many handshakes")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		defer w.payments.Close()
		defer w.orders.Close()
		var mu sync.Mutex
		open := 0
		var wg sync.WaitGroup
		for range 1100 {
			c := w.rawPeer()
			_, _ = c.Write(rawFrame(fClose, 0, ""))
			mu.Lock()
			open++
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
				mu.Lock()
				defer mu.Unlock()
				open--
			})
		}
		<-time.After(10 * time.Second)
		mu.Lock()
		if open > 1024 || open < 1000 {
			t.Errorf("%d are open", open)
		}
		mu.Unlock()
		<-time.After(2 * time.Minute)
		wg.Wait() // none is open for ever
	})
}

// Whatever a server sends between two streams, the next Dial has a connection that works.
func TestHostileServer(t *testing.T) {
	for name, send := range map[string][]byte{
		"data that nobody reads":      rawFrame(fData, 0, "x"),
		"much of it":                  bytes.Repeat(rawFrame(fData, 0, string(make([]byte, 16000))), 100),
		"bare data that nobody reads": bareData,
		"garbage":                     []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"another stream's close":      rawFrame(fClose, 1, ""),
		"two closes":                  slices.Concat(rawFrame(fClose, 0, ""), rawFrame(fClose, 0, "")),
		"a close and then data":       slices.Concat(rawFrame(fClose, 0, ""), rawFrame(fData, 0, "x")),
		"pings":                       bytes.Repeat(rawFrame(fPing, 0, ""), 100),
		"open":                        rawFrame(fOpen, 1, ""),
		"a goodbye":                   slices.Concat(rawFrame(fClose, 0, ""), rawFrame(fBye, 0, "")),
		"a reset":                     rawFrame(fReset, 0, `{"destination":"x"}`),
		"half a header":               {fClose},
		"nothing":                     nil,
		"a close, then silence":       rawFrame(fClose, 0, ""),
		"a reset of half a frame":     rawFrame(fReset, 0, `{"destination":"x"}`)[:9],
	} {
		for _, pause := range []time.Duration{0, 5 * time.Second} {
			t.Run(name+"/"+pause.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { hostileServer(t, send, pause) })
			})
		}
	}
}

func hostileServer(t *testing.T, send []byte, pause time.Duration) {
	n := meshtest.New(t)
	host := n.Network()
	ln, err := host.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conf := tlsOf(t, n.Identity(t, "payments"))
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			inner, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				c := tls.Server(inner, conf)
				defer c.Close()
				b := make([]byte, 8)
				if _, err := io.ReadFull(c, b); err != nil {
					return
				}
				_, _ = c.Write(b) // the ping
				if i > 0 {
					_, _ = io.Copy(io.Discard, c)
					return
				}
				_, _ = io.ReadFull(c, b[:4]) // the close
				_, _ = c.Write(send)
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
	orders := n.Join(t, "orders")
	defer wg.Wait()
	defer orders.Close()
	defer ln.Close()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		c, err := orders.DialEndpoint(ctx, "payments", addrOf(ln))
		if err != nil {
			t.Fatal(err)
		}
		err = ping(c)
		if orders.Stats().Reused > 0 {
			return // the server said that it may be, and then nothing: that is a broken server's stream
		}
		if err != nil {
			t.Error(err)
		}
		c.Close()
		synctest.Wait()
		<-time.After(pause)
	}
}

// FuzzStreams sends a server anything, and compares what the application got with a reader of the framing that knows no
// connections.
func FuzzStreams(f *testing.F) {
	f.Add(slices.Concat(rawFrame(fData, 0, "abc"), rawFrame(fClose, 0, ""), rawFrame(fOpen, 1, "def"), rawFrame(fEnd, 1, ""), rawFrame(fClose, 1, "")), uint(1<<14))
	f.Add(slices.Concat(rawFrame(fEnd, 0, ""), rawFrame(fPing, 0, ""), rawFrame(fOpen, 1, ""), rawFrame(fData, 1, "x")), uint(1<<14))
	f.Add(slices.Concat(rawFrame(fData, 0, ""), rawFrame(fClose, 0, ""), rawFrame(fOpen, 2, "x")), uint(1<<14))
	f.Add(slices.Concat(rawFrame(fClose, 0, ""), rawFrame(fOpen, 1, "x")[:4], []byte{fClose, 1, 0, 0}), uint(1<<14))
	f.Add(slices.Concat(rawFrame(fClose, 0, ""), rawFrame(fBrief, 1, "abc"), rawFrame(fBrief, 2, "def"), rawFrame(fOpen, 3, ""), rawFrame(fEnd, 3, "")), uint(1<<14))
	f.Add(slices.Concat(rawFrame(fEnd, 0, ""), rawFrame(fBrief, 1, ""), rawFrame(fData, 1, "x"), rawFrame(fEnd, 1, ""), rawFrame(fBrief, 2, "y"), rawFrame(fClose, 2, "")), uint(1<<14))
	f.Add(slices.Concat(rawFrame(fClose, 0, ""), rawFrame(fBrief, 1, "x"), rawFrame(fBrief, 2, "yz")[:5]), uint(1<<14))
	f.Add(slices.Concat(rawFrame(fClose, 0, ""), rawFrame(fBrief, 1, "x"), rawFrame(fOpen, 2, "y"), rawFrame(fOpen, 3, "z")), uint(1<<14))
	bare := []byte{0xEE} // bareData in short
	f.Add(slices.Concat(bare, rawFrame(fData, 0, "x"), bare, rawFrame(fClose, 0, ""), rawFrame(fBrief, 1, "x"), bare, bareData[:5]), uint(1<<14))
	f.Add(slices.Concat(rawFrame(fClose, 0, ""), rawFrame(fBrief, 1, ""), bare), uint(5))
	net := meshtest.New(f, ordersToPayments)
	payments := net.Join(f, "payments")
	ln, err := payments.Listen(f.Context(), "tcp", ":0")
	if err != nil {
		f.Fatal(err)
	}
	got := make(chan string)
	go func() {
		defer close(got)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := io.ReadAll(c)
			if err != nil {
				b = append(b, '!')
			}
			c.Close()
			got <- string(b)
		}
	}()
	f.Cleanup(func() {
		ln.Close()
		for range got {
			continue
		}
	})
	host, conf := net.Network(), tlsOf(f, net.Identity(f, "orders"))
	f.Fuzz(func(t *testing.T, sent []byte, piece uint) {
		if len(sent) > 1<<14 || bytes.Count(sent, bare) > 4 {
			return
		}
		sent = bytes.ReplaceAll(sent, bare, bareData)
		inner, err := host.DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(inner, conf)
		defer c.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.HandshakeContext(t.Context())
			for p := range slices.Chunk(sent, len(sent)/64+1+int(piece%(1<<15))) { // what is a record is of no importance
				_, _ = c.Write(p)
			}
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
		}()
		for i, want := range readStreams(sent) {
			select {
			case s := <-got:
				if s != want {
					t.Fatalf("stream %d: %q, want %q", i, s, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("stream %d did not come", i)
			}
		}
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("the connection is still open")
		}
		select {
		case s := <-got:
			t.Errorf("one more stream: %q", s)
		default:
		}
	})
}

// readStreams returns the streams that a server gets out of what a client sends; "!" is at the end of one that did not end
// properly. There is always one.
func readStreams(b []byte) []string {
	streams := []string{""}
	present := &streams[0]
	var epoch, heard byte
	ended, gone, brief := false, false, false
	for empty, pings := 0, 0; ; {
		fail := func() []string {
			if !ended {
				*present += "!"
			}
			return streams
		}
		if len(b) < 4 {
			return fail()
		}
		typ, e, n := b[0], b[1], int(binary.BigEndian.Uint16(b[2:]))
		limit := 16380
		if typ < fData || typ > fBrief {
			typ, e, n, limit = fData, heard, len(bareData), len(bareData)
		} else {
			b = b[4:]
		}
		if n > 0 && (typ == fData || typ == fOpen || typ == fBrief) {
			heard = e
		}
		same := e == epoch && n == 0
		switch {
		case typ == fData && !ended && e == epoch && n <= limit, (typ == fOpen || typ == fBrief) && (ended || brief) && e == epoch+1 && n <= limit:
			if brief = typ == fBrief || typ == fData && brief; typ != fData {
				streams = append(streams, "")
				present = &streams[len(streams)-1]
				epoch, ended, gone, empty, pings = e, false, false, 0, 0
			} else if n > 0 {
				empty = 0
			} else if empty++; empty > 16 {
				return fail()
			}
			*present += string(b[:min(n, len(b))])
			if n > len(b) {
				return fail()
			}
			b = b[n:]
		case typ == fEnd && !ended && same:
			ended = true
		case typ == fClose && !gone && same:
			ended, gone = true, true
		case typ == fPing && ended && same && pings < 64:
			pings++
		default:
			return fail()
		}
	}
}

package mesh_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/meshtest"
)

// Brief streams whose answers the peer never reads are bounded by what the network holds.
func TestClientThatNeverReadsBriefly(t *testing.T) {
	bubble(t, func(t *testing.T, w *memWorld) {
		c := w.rawPeer()
		defer c.Close()
		start, n := time.Now(), 0
		_ = c.SetWriteDeadline(start.Add(time.Minute))
		_, _ = c.Write(rawFrame(fClose, 0, ""))
		for epoch := byte(1); n < 1e6; n++ {
			if _, err := c.Write(rawFrame(fBrief, epoch, "xxxxxxxxxxxxxxxxxxxxxxxx")); err != nil {
				break
			}
			epoch++
		}
		if took := time.Since(start); n == 1e6 || took > 30*time.Second {
			t.Errorf("%d streams in %v", n, took)
		}
		w.expect(false)
	})
}

// Applications that stay with streams that a client has left are bounded: the client is told, and then cut off.
func TestClientThatLeavesAndLeaves(t *testing.T) {
	bubble(t, func(t *testing.T, w *memWorld) {
		ln := w.listen("stay")
		served, open := 0, make(chan net.Conn, 1000)
		go func() {
			defer close(open)
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				open <- c
				go func() { _, _ = io.Copy(io.Discard, c) }() // it stays
			}
		}()
		inner, err := w.net.Network().DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(inner, tlsOf(t, w.client))
		defer c.Close()
		_, _ = c.Write(rawFrame(fEnd, 0, ""))
		first := <-open
		first.Close()
		for epoch := byte(1); epoch < 200; epoch++ {
			if _, err := c.Write(rawFrame(fBrief, epoch, "x")); err != nil {
				break
			}
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second)) // the last application stays as well
		said, _ := io.ReadAll(c)
		ln.Close()
		for c := range open {
			served++
			c.Close()
		}
		if served > 40 || !bytes.Contains(said, []byte{fBye}) {
			t.Errorf("%d streams were served; it was told %x", served, said)
		}
		w.expect(false)
	})
}

// Whatever a server sends of brief streams harms these at most: the Dial after the next has a connection that works.
func TestHostileServerOfBriefStreams(t *testing.T) {
	for name, send := range map[string][]byte{
		"data of the one before":          rawFrame(fData, 2, "stale"),
		"bare data of the one before":     bareData,
		"bare data, half of it":           bareData[:99],
		"its end and close":               slices.Concat(rawFrame(fEnd, 2, ""), rawFrame(fClose, 2, "")),
		"data of one long gone":           rawFrame(fData, 1, "x"),
		"data of one to come":             rawFrame(fData, 9, "x"),
		"half a frame of the one before":  rawFrame(fData, 2, "stale")[:6],
		"ends without end":                bytes.Repeat(rawFrame(fEnd, 2, ""), 1000),
		"a goodbye":                       rawFrame(fBye, 2, ""),
		"a brief one":                     rawFrame(fBrief, 4, ""),
		"a ping":                          rawFrame(fPing, 3, ""),
		"a reset":                         rawFrame(fReset, 0, `{"destination":"x"}`),
		"its own data, then of the other": slices.Concat(rawFrame(fData, 3, "ping"), rawFrame(fData, 2, "x")),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := meshtest.New(t)
				ln, err := n.Network().Listen(t.Context(), "tcp", ":0")
				if err != nil {
					t.Fatal(err)
				}
				conf := tlsOf(t, n.Identity(t, "payments"))
				var wg sync.WaitGroup
				wg.Go(func() {
					for hostile := send; ; hostile = nil {
						inner, err := ln.Accept()
						if err != nil {
							return
						}
						wg.Go(func() { echoStreams(tls.Server(inner, conf), hostile) })
					}
				})
				orders := n.Join(t, "orders")
				defer wg.Wait()
				defer orders.Close()
				defer ln.Close()
				failed := 0
				for i := range 10 {
					c, err := orders.DialEndpoint(t.Context(), "payments", addrOf(ln))
					if err != nil {
						t.Fatal(err)
					}
					if err := ping(c); err != nil {
						t.Log(err)
						failed++
					}
					c.Close()
					if i == 0 {
						synctest.Wait() // that connection is used again, then
					}
				}
				if failed > 1 || orders.Stats().Reused < 3 {
					t.Errorf("%d calls failed, %d used a connection again", failed, orders.Stats().Reused)
				}
			})
		})
	}
}

// echoStreams serves one connection's streams without our code. What is hostile comes before the answer in the third one.
func echoStreams(c *tls.Conn, hostile []byte) {
	defer c.Close()
	for header := make([]byte, 4); ; {
		if _, err := io.ReadFull(c, header); err != nil {
			return
		}
		payload := make([]byte, binary.BigEndian.Uint16(header[2:]))
		if _, err := io.ReadFull(c, payload); err != nil {
			return
		}
		epoch := header[1]
		if epoch == 3 && header[0] != fClose {
			_, _ = c.Write(hostile)
		}
		switch header[0] {
		case fClose:
			_, _ = c.Write(rawFrame(fClose, epoch, ""))
		case fData, fOpen, fBrief:
			_, _ = c.Write(rawFrame(fData, epoch, string(payload)))
		}
	}
}

package attacks

import (
	"bytes"
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/meshtest"
)

// A client looks at an idle connection over HTTP/1.1 before it uses it, and answers key updates there. The server answers requests without
// reading them, until there is no room left: no request takes longer than its caller allows.
func TestClientHasKeysUpdatedBetweenRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t)
		ln, err := n.Network().Listen(t.Context(), "tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		svid, err := n.Identity(t, "evil").GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan struct{})
		go func() {
			for i := 0; ; i++ {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				if i > 0 {
					return
				}
				var keys bytes.Buffer
				s := tls.Server(c, serverConfig(svid, "http/1.1", &keys))
				if err := s.HandshakeContext(t.Context()); err != nil {
					t.Error(err)
					return
				}
				r, err := newRecords(s, &keys, "SERVER_TRAFFIC_SECRET_0")
				if err != nil {
					t.Error(err)
					return
				}
				go func() {
					for range asked {
						_ = r.record(recordApplication, []byte("HTTP/1.1 204 No Content\r\n\r\n"))
						for range 12 {
							_ = r.keyUpdate(true)
						}
					}
				}()
			}
		}()
		at := discovery.Endpoint{Service: "evil", Addr: netip.MustParseAddrPort(ln.Addr().String())}
		m := n.JoinConfig(t, mesh.Config{Service: "orders", Discovery: static.New(at)})
		trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { asked <- struct{}{} }}
		filler := strings.Repeat("x", 7<<10)
		for sent := 0; ; sent++ {
			if sent == 8 { // there is room for 7 KiB more
				filler = ""
			}
			ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(t.Context(), trace), patience)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://evil/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Filler", filler)
			begun := time.Now()
			resp, err := m.HTTPClient().Do(req)
			took := time.Since(begun)
			cancel()
			synctest.Wait()
			if err == nil {
				_ = resp.Body.Close()
				continue
			}
			if took > patience {
				t.Errorf("request %d took %v: %v", sent, took, err)
			}
			if sent < 10 {
				t.Errorf("request %d failed: %v", sent, err)
			}
			break
		}
		close(asked)
	})
}

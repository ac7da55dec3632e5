package meshgrpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/internal/h2raw"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc"
)

// maxCalls is how many calls of one connection a server takes at once.
const maxCalls = 4096

func callOf(method string) []h2raw.Field {
	return []h2raw.Field{
		{Name: ":method", Value: http.MethodPost}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/" + service + "/" + method},
		{Name: ":authority", Value: "payments"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}
}

// hostilePeers are members whose certificate is good and whose gRPC is not. They answer no pings.
func hostilePeers() map[string]func(t *testing.T, c *tls.Conn) {
	opens := func(reset bool) func(*testing.T, *tls.Conn) {
		return func(_ *testing.T, c *tls.Conn) {
			h, err := h2raw.New(c)
			go func() { _, _ = io.Copy(io.Discard, c) }()
			for i := 0; err == nil && i < 3*maxCalls; i++ {
				var id uint32
				id, err = h.Open(callOf("FullDuplexCall")...)
				if err == nil && reset {
					err = h.Reset(id)
				}
			}
		}
	}
	return map[string]func(t *testing.T, c *tls.Conn){
		"stalls before the preface": func(*testing.T, *tls.Conn) {},
		"stalls within a frame": func(t *testing.T, c *tls.Conn) {
			if _, err := h2raw.New(c); err != nil {
				t.Error(err)
			}
			_, _ = c.Write([]byte{0, 1, 0, 1, 4, 0, 0, 0, 1, 0x82}) // HEADERS of 256 bytes, of which one comes
		},
		"sends garbage": func(_ *testing.T, c *tls.Conn) {
			_, _ = c.Write(make([]byte, 4096))
		},
		"never reads": func(t *testing.T, c *tls.Conn) {
			h, err := h2raw.New(c)
			for i := 0; err == nil && i < 100; i++ {
				_, err = h.Open(callOf("Missing")...)
			}
			if err != nil {
				t.Error(err)
			}
		},
		"floods opens":            opens(false),
		"floods opens and resets": opens(true),
	}
}

// Whatever a peer does, its connection ends, it never holds more than so many handlers, and another one's calls are answered
// meanwhile.
func TestHostilePeers(t *testing.T) {
	for name, attack := range hostilePeers() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := meshtest.New(t, meshtest.Allow("payments", "orders", "mallory"))
				payments := n.Join(t, "payments")
				var held, most atomic.Int32
				serve(t, payments, &greeter{}, grpc.ChainStreamInterceptor(
					func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
						if n := held.Add(1); n > most.Load() {
							most.Store(n)
						}
						defer held.Add(-1)
						return handle(srv, s)
					}))
				c := client(t, n.Join(t, "orders"), "payments")
				want := func() {
					t.Helper()
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					if _, err := greet(ctx, c); err != nil {
						t.Errorf("another peer's call: %v", err)
					}
				}
				want()
				svid, err := n.Identity(t, "mallory").GetX509SVID()
				if err != nil {
					t.Fatal(err)
				}
				raw, err := n.Network().DialContext(t.Context(), "tcp", payments.Discovery().Lookup("payments").Endpoints[0].Addr.String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { raw.Close() })
				hostile := tls.Client(raw, &tls.Config{
					MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{testca.Certificate(svid)},
				})
				if err := hostile.HandshakeContext(t.Context()); err != nil {
					t.Fatal(err)
				}
				attack(t, hostile)
				want()
				if n := most.Load(); n > maxCalls {
					t.Errorf("%d handlers ran at once", n)
				}
				<-time.After(3 * time.Minute)
				want()
				_ = raw.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := io.Copy(io.Discard, raw); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the connection is still open")
				}
				if n := held.Load(); n != 0 {
					t.Errorf("%d handlers still run", n)
				}
			})
		})
	}
}

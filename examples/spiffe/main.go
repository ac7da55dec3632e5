// Command spiffe is a mesh without a control plane of ours: certificates come from SPIRE, or whatever else answers the
// SPIFFE Workload API. Nothing enrols; go-spiffe's source is the identity as it is, and rotates by itself.
//
//	SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/agent.sock spiffe server 10.0.0.7:8443
//	SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/agent.sock spiffe client 10.0.0.7:8443
//
// A service's name is the path of its SPIFFE ID: spiffe://prod.example/shop/greeter is "shop/greeter".
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"os/signal"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const greeter, visitor = "shop/greeter", "shop/visitor"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) != 3 {
		log.Fatal("usage: spiffe server|client HOST:PORT")
	}
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, role, address string) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx) // waits for the first certificate
	if err != nil {
		return err
	}
	defer source.Close()
	m, err := mesh.Join(ctx, mesh.Config{
		Identity:  source,
		Discovery: static.New(discovery.Endpoint{Service: greeter, Instance: "one", Addr: addr}),
		Policy:    policy.AuthorizerFunc(allow),
	})
	if err != nil {
		return err
	}
	defer m.Close()
	if role == "server" {
		return serve(ctx, m, address)
	}
	conn, err := m.Dial(ctx, "tcp", greeter)
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// allow is the only rule.
func allow(_ context.Context, r *policy.Request) policy.Decision {
	d := policy.Decision{Rule: -1, Layer: r.Layer, Reason: "visitors only", Tell: true} // the caller too
	if r.Source.Path() == "/"+visitor {
		d.Verdict = policy.Allow
	}
	return d
}

func serve(ctx context.Context, m *mesh.Mesh, address string) error {
	ln, err := m.Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	log.Printf("%s listens at %s", m.ID(), ln.Addr())
	for {
		conn, err := ln.Accept()
		if err != nil {
			return context.Cause(ctx)
		}
		go greet(conn)
	}
}

func greet(conn net.Conn) {
	defer conn.Close()
	peer, _ := mesh.PeerFromConn(conn)
	fmt.Fprintf(conn, "hello %s\n", peer.ID)
}

// Command grpc is a gRPC service and a client of it.
//
//	MESH_BOOTSTRAP=$(mesh token payments) go run ./examples/grpc server
//	MESH_BOOTSTRAP=$(mesh token orders)   go run ./examples/grpc client
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/examples/payv1"
	"github.com/intramesh/mesh/meshgrpc"
)

type payments struct {
	payv1.UnimplementedPaymentsServer
}

func (payments) Charge(ctx context.Context, r *payv1.ChargeRequest) (*payv1.ChargeResponse, error) {
	peer, _ := mesh.PeerFromContext(ctx)
	return &payv1.ChargeResponse{Receipt: fmt.Sprintf("charged %d cents for %s", r.Cents, peer.Service())}, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	run := map[string]func(context.Context, *mesh.Mesh) error{"server": server, "client": client}[strings.Join(os.Args[1:], " ")]
	if run == nil {
		log.Fatal("usage: grpc server|client")
	}
	b, err := mesh.BootstrapFromEnv()
	if err != nil {
		log.Fatal(err)
	}
	m, err := mesh.Join(ctx, mesh.Config{Bootstrap: b})
	if err != nil {
		log.Fatal(err)
	}
	err = run(ctx, m)
	m.Close()
	if err != nil {
		log.Fatal(err)
	}
}

func server(ctx context.Context, m *mesh.Mesh) error {
	s := meshgrpc.NewServer(m)
	payv1.RegisterPaymentsServer(s, payments{})
	ln, err := m.Listen(ctx, "tcp", ":0")
	if err != nil {
		return err
	}
	log.Printf("%s serves on %s", m.ID(), ln.Addr())
	context.AfterFunc(ctx, s.GracefulStop)
	return s.Serve(ln)
}

func client(ctx context.Context, m *mesh.Mesh) error {
	conn, err := meshgrpc.NewClient(m, "payments")
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := payv1.NewPaymentsClient(conn).Charge(ctx, &payv1.ChargeRequest{Cents: 1299})
	if denied, ok := errors.AsType[*mesh.DeniedError](err); ok {
		return denied // says which rule, or that none allows it
	}
	fmt.Println(resp.GetReceipt())
	return err
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/examples/payv1"
	"github.com/intramesh/mesh/meshgrpc"
	"google.golang.org/grpc"
)

// payments answers over HTTP on its default port, over gRPC on the port "grpc", and with a line
// protocol of its own on the port "ledger".
type payments struct {
	payv1.UnimplementedPaymentsServer
	instance string
	log      *slog.Logger
}

func startPayments(ctx context.Context, s setup, log *slog.Logger) (*role, error) {
	m, err := join(ctx, s, log)
	if err != nil {
		return nil, err
	}
	p := &payments{instance: s.Name, log: log}

	mux := http.NewServeMux()
	mux.HandleFunc("POST /charge", p.chargeHTTP)
	web := &http.Server{Handler: m.Handler(mux), ReadHeaderTimeout: 5 * time.Second}

	rpc := grpc.NewServer(meshgrpc.ServerOptions(m, "grpc")...)
	payv1.RegisterPaymentsServer(rpc, p)

	var addr net.Addr
	for _, l := range []struct {
		port  string
		serve func(net.Listener) error
	}{{"grpc", rpc.Serve}, {"ledger", p.serveLedger}, {"", web.Serve}} {
		ln, err := m.Listen(ctx, "tcp", "127.0.0.1:0", mesh.ListenOptions{Port: l.port})
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		addr = ln.Addr()
		go func() {
			if err := l.serve(ln); !errors.Is(err, net.ErrClosed) {
				log.Warn("serving", "port", l.port, "err", err)
			}
		}()
	}
	return &role{ready: joined{ID: m.ID().String(), Addr: addr.String()}, stop: func() { stop(m) }}, nil
}

// joined is what a member tells about itself.
type joined struct{ ID, Addr string }

func stop(m *mesh.Mesh) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = m.Shutdown(ctx) // what is still open then is closed
}

// A receipt is the answer in every protocol: who charged, and for whom.
type receipt struct {
	Instance string `json:"instance"`
	Caller   string `json:"caller"`
}

func (p *payments) chargeHTTP(w http.ResponseWriter, r *http.Request) {
	peer, _ := mesh.PeerFromContext(r.Context())
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(receipt{p.instance, peer.ID.String()}); err != nil {
		p.log.Info("answering", "err", err)
	}
}

// Charge is the gRPC method pay.v1.Payments/Charge.
func (p *payments) Charge(ctx context.Context, r *payv1.ChargeRequest) (*payv1.ChargeResponse, error) {
	peer, _ := mesh.PeerFromContext(ctx)
	return &payv1.ChargeResponse{
		Receipt:  fmt.Sprintf("charged %d cents", r.Cents),
		Instance: p.instance,
		Caller:   peer.ID.String(),
	}, nil
}

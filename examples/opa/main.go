// Command opa is an HTTP service whose requests the mesh's rules decide first, and then Open Policy Agent, which runs in
// the same process: charge.rego compares numbers, which no rule does. It is a module of its own, since Open Policy Agent
// is large:
//
//	cd examples/opa
//	MESH_BOOTSTRAP=$(mesh token payments) GOWORK=off go run .
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/intramesh/mesh"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b, err := mesh.BootstrapFromEnv()
	if err != nil {
		log.Fatal(err)
	}
	ask, err := newOPA(ctx)
	if err != nil {
		log.Fatal(err)
	}
	m, err := mesh.Join(ctx, mesh.Config{Bootstrap: b, Also: ask})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := m.Listen(ctx, "tcp", ":0")
	if err == nil {
		err = serve(ctx, m, ln)
	}
	m.Close()
	if err != nil {
		log.Fatal(err)
	}
}

// serve serves until ctx ends.
func serve(ctx context.Context, m *mesh.Mesh, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /charge/{cents}", func(w http.ResponseWriter, r *http.Request) {
		cents, err := strconv.Atoi(r.PathValue("cents"))
		if err != nil {
			http.Error(w, "want a number of cents", http.StatusBadRequest)
			return
		}
		peer, _ := mesh.PeerFromContext(r.Context())
		fmt.Fprintf(w, "charged %d cents for %s\n", cents, peer.Service())
	})
	srv := http.Server{Handler: m.Handler(mux), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return m.Shutdown(drain)
}

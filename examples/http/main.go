// Command http is an HTTP service and a client of it.
//
//	MESH_BOOTSTRAP=$(mesh token payments) go run ./examples/http server
//	MESH_BOOTSTRAP=$(mesh token orders)   go run ./examples/http client
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/intramesh/mesh"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	run := map[string]func(context.Context, *mesh.Mesh) error{"server": server, "client": client}[strings.Join(os.Args[1:], " ")]
	if run == nil {
		log.Fatal("usage: http server|client")
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
	mux := http.NewServeMux()
	mux.HandleFunc("POST /charge", func(w http.ResponseWriter, r *http.Request) {
		peer, _ := mesh.PeerFromContext(r.Context()) // verified: nobody can claim it in a header
		fmt.Fprintf(w, "charged %s cents for %s\n", r.FormValue("cents"), peer.Service())
	})
	ln, err := m.Listen(ctx, "tcp", ":0")
	if err != nil {
		return err
	}
	log.Printf("%s serves on %s", m.ID(), ln.Addr())
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
	return m.Shutdown(drain) // callers hear of it first, then open requests end
}

func client(ctx context.Context, m *mesh.Mesh) error {
	resp, err := m.HTTPClient().Post("http://payments/charge?cents=1299", "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if denied, ok := mesh.DeniedFromResponse(resp); ok {
		return denied // says which rule, or that none allows it
	}
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

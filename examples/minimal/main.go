// Command minimal is a whole member of a mesh: it joins, serves, and calls.
//
//	MESH_BOOTSTRAP=$(mesh token payments) minimal
//	MESH_BOOTSTRAP=$(mesh token orders)   minimal http://payments/
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/intramesh/mesh"
)

func main() {
	ctx := context.Background()
	b, err := mesh.BootstrapFromEnv()
	check(err)
	m, err := mesh.Join(ctx, mesh.Config{Bootstrap: b})
	check(err)
	defer m.Close()

	if len(os.Args) > 1 {
		resp, err := m.HTTPClient().Get(os.Args[1])
		check(err)
		defer resp.Body.Close()
		_, err = io.Copy(os.Stdout, resp.Body)
		check(err)
		return
	}

	ln, err := m.Listen(ctx, "tcp", ":0")
	check(err)
	check(http.Serve(ln, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, _ := mesh.PeerFromContext(r.Context())
		fmt.Fprintf(w, "hello %s\n", peer.ID)
	}))))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Command tcp puts an unchanged protocol on the mesh: a Redis server made with one library, and
// a client made with another. Neither knows of the mesh; they are given a listener and a dialer.
//
//	MESH_BOOTSTRAP=$(mesh token cache)  go run ./examples/tcp server
//	MESH_BOOTSTRAP=$(mesh token orders) go run ./examples/tcp client
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/intramesh/mesh"
	"github.com/redis/go-redis/v9"
	"github.com/tidwall/redcon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	run := map[string]func(context.Context, *mesh.Mesh) error{"server": server, "client": client}[strings.Join(os.Args[1:], " ")]
	if run == nil {
		log.Fatal("usage: tcp server|client")
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
	ln, err := m.Listen(ctx, "tcp", ":0")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	var store sync.Map
	return redcon.Serve(ln, func(c redcon.Conn, cmd redcon.Command) {
		switch verb := strings.ToLower(string(cmd.Args[0])); {
		case verb == "set" && len(cmd.Args) == 3:
			store.Store(string(cmd.Args[1]), string(cmd.Args[2]))
			c.WriteString("OK")
		case verb == "get" && len(cmd.Args) == 2:
			v, _ := store.Load(string(cmd.Args[1]))
			c.WriteAny(v)
		default:
			c.WriteError("ERR unknown command '" + verb + "'")
		}
	}, func(c redcon.Conn) bool {
		peer, _ := mesh.PeerFromConn(c.NetConn())
		log.Printf("%s connects", peer.ID)
		return true
	}, nil)
}

func client(ctx context.Context, m *mesh.Mesh) error {
	r := redis.NewClient(&redis.Options{Addr: "cache", Dialer: m.Dial, Protocol: 2, DisableIdentity: true})
	defer r.Close()
	if err := r.Set(ctx, "now", time.Now().Format(time.TimeOnly), 0).Err(); err != nil {
		return err
	}
	now, err := r.Get(ctx, "now").Result()
	fmt.Println("it was", now)
	return err
}

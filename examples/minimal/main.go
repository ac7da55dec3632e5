// Command minimal is a whole member of a mesh: it joins, listens and dials.
//
//	MESH_BOOTSTRAP=$(mesh token greeter) minimal
//	MESH_BOOTSTRAP=$(mesh token visitor) minimal greeter
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
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
		conn, err := m.Dial(ctx, "tcp", os.Args[1])
		check(err)
		_, err = io.Copy(os.Stdout, conn)
		check(err)
		return
	}

	ln, err := m.Listen(ctx, "tcp", ":0")
	check(err)
	for {
		conn, err := ln.Accept()
		check(err)
		go greet(conn)
	}
}

func greet(conn net.Conn) {
	defer conn.Close()
	peer, _ := mesh.PeerFromConn(conn)
	fmt.Fprintf(conn, "hello %s\n", peer.ID)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

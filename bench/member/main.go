// Command member is a small process of a mesh, for measuring what joining costs: it gossips, listens, has one message come
// back from the server named on its command line, says "ready", and waits for the end of its input.
//
//	member DIR HOST:PORT
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/identity"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "member:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	if len(os.Args) != 3 {
		return errors.New("usage: member DIR HOST:PORT")
	}
	dir := os.Args[1]
	server, err := netip.ParseAddrPort(os.Args[2])
	if err != nil {
		return err
	}
	id, err := identity.NewFiles(identity.FilesConfig{
		CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), RootsFile: filepath.Join(dir, "roots.pem"),
	})
	if err != nil {
		return err
	}
	defer id.Close()
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	pool, err := gossip.Join(ctx, gossip.Config{BindAddr: netip.MustParseAddrPort("127.0.0.1:0"), Keys: [][]byte{key}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	// The server does not gossip: announce it in its stead.
	if err := pool.Register(ctx, discovery.Endpoint{Service: "server", Addr: server}); err != nil {
		return err
	}
	m, err := mesh.Join(ctx, mesh.Config{Identity: id, Discovery: pool})
	if err != nil {
		return err
	}
	defer m.Close()
	if _, err := m.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	conn, err := m.Dial(ctx, "tcp", "server")
	if err != nil {
		return err
	}
	defer conn.Close()
	message := []byte{'e', 0, 0, 0, 0, 0, 0, 8} // see raw.go: 8 bytes that come back
	if _, err := conn.Write(message); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, message); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

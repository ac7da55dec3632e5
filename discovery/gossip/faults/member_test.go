package faults_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/identity"
)

// asMember makes the test's binary a member instead, or somebody else.
const asMember = "MESH_FAULTS_MEMBER"

func TestMain(m *testing.M) {
	raw := os.Getenv(asMember)
	if raw == "" {
		goleak.VerifyTestMain(m)
		return
	}
	var sp spec
	err := json.Unmarshal([]byte(raw), &sp)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err = map[string]func(context.Context, spec) error{"": member, "attack": attacks, "replay": replay}[sp.Role](ctx, sp)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
}

// A spec says what a process is to do.
type spec struct {
	Role     string // "" is a member
	Instance string
	Addr     string
	Key      byte
	Label    string // of the pool, and its trust domain
	Certs    string // the folder of its certificate, for the service "all"
	Lies     bool   // its certificate is for another service, which it denies
	Seeds    []string
	Dir      string
	Weight   uint16
	Attack   string
	Targets  []string
}

// view is what a process knows of the members. Heavy is how much more than 1 their weights are, all together.
type view struct{ Ready, Suspect, Heavy int }

// said is a line that a process prints: when its view changes, and when it is asked what it refused.
type said struct {
	View    *view           `json:",omitempty"`
	Refused *gossip.Refused `json:",omitempty"`
}

// What a process is told, a line each.
const (
	heavier = "heavier\n" // announce a greater weight
	tell    = "refused\n" // what was refused
)

const port = 7946

// liar holds a certificate and denies what it is for.
type liar struct{ *identity.Credential }

func (liar) VerifyMember([]*x509.Certificate) (string, error) { return "all", nil }

// credential is that of the process.
func (sp spec) credential() (gossip.Identity, io.Closer, error) {
	files, err := identity.NewFiles(identity.FilesConfig{
		CertFile: filepath.Join(sp.Certs, "cert.pem"), KeyFile: filepath.Join(sp.Certs, "key.pem"), RootsFile: filepath.Join(sp.Certs, "roots.pem"),
	})
	if err != nil {
		return nil, nil, err
	}
	if c := identity.NewCredential(files); !sp.Lies {
		return c, files, nil
	}
	return liar{identity.NewCredential(files)}, files, nil
}

func (sp spec) key() []byte { return bytes.Repeat([]byte{sp.Key}, 32) }

// member gossips, and prints each change of what it knows, until it is terminated: then it leaves.
func member(ctx context.Context, sp spec) error {
	addr, err := netip.ParseAddr(sp.Addr)
	if err != nil {
		return err
	}
	id, files, err := sp.credential()
	if err != nil {
		return err
	}
	defer files.Close()
	g, err := gossip.Join(ctx, gossip.Config{
		Instance: sp.Instance, BindAddr: netip.AddrPortFrom(addr, port), Keys: [][]byte{sp.key()}, Label: sp.Label, Identity: id,
		Seeds: sp.Seeds, Dir: sp.Dir, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		JoinTimeout: time.Second, RejoinInterval: 3 * time.Second,
	})
	if err != nil {
		return err
	}
	defer g.Close()
	ep := discovery.Endpoint{Service: "all", Addr: netip.AddrPortFrom(addr, 1), Weight: sp.Weight}
	if err := g.Register(ctx, ep); err != nil {
		return err
	}
	asked := make(chan struct{})
	go func() {
		for in := bufio.NewReader(os.Stdin); ; {
			switch line, err := in.ReadString('\n'); {
			case err != nil:
				return
			case line == heavier:
				ep.Weight++
				_ = g.Register(ctx, ep)
			default:
				asked <- struct{}{}
			}
		}
	}()
	for out := json.NewEncoder(os.Stdout); ; {
		snap := g.Lookup("all")
		if err := out.Encode(said{View: look(snap)}); err != nil {
			return err
		}
	waiting:
		for {
			select {
			case <-snap.Changed:
				break waiting
			case <-asked:
				r := g.Refused()
				if err := out.Encode(said{Refused: &r}); err != nil {
					return err
				}
			case <-ctx.Done():
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				return errors.Join(g.Leave(ctx))
			}
		}
	}
}

func look(snap discovery.Snapshot) *view {
	v := new(view)
	for _, ep := range snap.Endpoints {
		if ep.Suspect {
			v.Suspect++
		} else {
			v.Ready++
		}
		v.Heavy += int(ep.Weight) - 1
	}
	return v
}

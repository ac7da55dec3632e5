package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/internal/names"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// operator is the backend of the admin socket.
type operator struct{ *Server }

var _ admin.Backend = operator{}

func (s *Server) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

func (s *Server) startAdmin(ctx context.Context) error {
	path, err := admin.SocketPath(s.cfg.Dir)
	if err != nil {
		return err
	}
	// The store's lock is ours, so a socket that is there is a dead server's.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, ln.Close())
	}
	srv := s.httpServer(admin.Handler(operator{s}, s.log))
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return admin.WithCaller(ctx, admin.Caller{Actor: store.Actor{Name: socketUser(c), From: "socket"}, Role: admin.Admin})
	}
	s.serve("admin", func() error { return srv.Serve(ln) })
	s.onClose(shutdown(srv))
	return nil
}

// Rules returns all documents.
func (s operator) Rules(context.Context) (store.Rules, error) { return s.rules.Rules(), nil }

// Apply stores documents and publishes them.
func (s operator) Apply(ctx context.Context, docs []policy.Document, o admin.ApplyOptions) (store.Result, error) {
	r, err := s.rules.Apply(ctx, store.Edit{Base: o.Base, Put: docs, Replace: o.Replace, Action: "apply"})
	return r, s.changed(ctx, r, err)
}

// Delete removes documents and publishes what is left.
func (s operator) Delete(ctx context.Context, names []string, base uint64) (store.Result, error) {
	r, err := s.rules.Apply(ctx, store.Edit{Base: base, Delete: names, Action: "delete"})
	return r, s.changed(ctx, r, err)
}

// Rollback makes earlier documents current, and publishes them.
func (s operator) Rollback(ctx context.Context, version, base uint64) (store.Result, error) {
	r, err := s.rules.Rollback(ctx, version, base)
	return r, s.changed(ctx, r, err)
}

// History returns the newest versions.
func (s operator) History(ctx context.Context, n int) ([]store.Version, error) {
	return s.rules.History(ctx, n)
}

// Version returns the documents of one version.
func (s operator) Version(ctx context.Context, version uint64) (store.Rules, error) {
	return s.rules.At(ctx, version)
}

func (s operator) changed(ctx context.Context, r store.Result, err error) error {
	if err != nil {
		return err
	}
	for _, c := range r.Changes {
		if c.Change != store.Unchanged {
			s.log.InfoContext(ctx, "rule changed", "policy", c.Name, "change", c.Change, "version", r.Version)
		}
	}
	return s.pub.publish()
}

// Explain asks the engine that the members run.
func (s operator) Explain(ctx context.Context, q admin.Question) (policy.Explanation, error) {
	r, err := s.request(q)
	if err != nil {
		return policy.Explanation{}, admin.Refuse(http.StatusBadRequest, err)
	}
	now, _ := s.pub.current()
	return now.engine.Explain(ctx, r), nil
}

func (s operator) request(q admin.Question) (*policy.Request, error) {
	r := &policy.Request{Destination: q.To, Port: q.Port}
	if err := names.Check(q.To); err != nil {
		return nil, err
	}
	var err error
	if strings.Contains(q.From, "://") {
		r.Source, err = spiffeid.FromString(q.From)
	} else if err = names.Check(q.From); err == nil {
		r.Source, err = spiffeid.FromPath(s.ca.TrustDomain(), "/"+q.From)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case q.GRPC != "":
		r.Layer, r.GRPCMethod = policy.LayerGRPC, strings.TrimPrefix(q.GRPC, "/")
	case q.Method != "":
		r.Layer, r.Method, r.Path, r.Host = policy.LayerHTTP, q.Method, q.Path, q.To
		if !strings.HasPrefix(q.Path, "/") {
			return nil, fmt.Errorf("path %q does not start with a slash", q.Path)
		}
		r.Header = http.Header{}
	case q.Claims != nil:
		return nil, errors.New("claims are those of an HTTP request or a gRPC call")
	}
	if q.Claims != nil {
		d := json.NewDecoder(bytes.NewReader(q.Claims))
		d.UseNumber() // as a verifier does
		if err := d.Decode(&r.Claims); err != nil {
			return nil, fmt.Errorf("claims: %w", err)
		}
	}
	return r, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/policy"
)

// requestPath is everything that the mesh does on a server for a request, and nothing that net/http does: a handler calls a
// handler of the mesh n times. The request, a connection and 1,003 rules are real.
func requestPath() (local, error) {
	return withinHandler(func(server *mesh.Mesh, w http.ResponseWriter, r *http.Request) func() error {
		inner := server.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		return func() error {
			inner.ServeHTTP(w, r)
			return nil
		}
	})
}

// authorizePath is the part of it that any protocol pays: the rules, the time and the counters.
func authorizePath() (local, error) {
	return withinHandler(func(server *mesh.Mesh, _ http.ResponseWriter, r *http.Request) func() error {
		asked := policy.Request{Layer: policy.LayerHTTP, Method: r.Method, Path: r.URL.Path, Host: r.Host, Header: r.Header}
		again := new(policy.Request) // an adapter keeps one with what it keeps of a request anyway
		return func() error {
			*again = asked
			return server.Authorize(r.Context(), again)
		}
	})
}

// withinHandler calls n times what it is given, within a handler that the mesh has let a request in to.
func withinHandler(of func(*mesh.Mesh, http.ResponseWriter, *http.Request) func() error) (local, error) {
	ca, err := testca.New(benchDomain())
	if err != nil {
		return nil, err
	}
	join := func(name string, with func(*mesh.Config)) (*mesh.Mesh, error) {
		svid, err := ca.SVID(name)
		if err != nil {
			return nil, err
		}
		c := mesh.Config{Service: name, Identity: material{svid, ca.Bundle()}.source(), Discovery: static.New()}
		with(&c)
		return mesh.Join(context.Background(), c)
	}
	rules := new(switchable)
	if err := rules.set(true); err != nil {
		return nil, err
	}
	server, err := join(serverName, func(c *mesh.Config) { c.Policy = rules })
	if err != nil {
		return nil, err
	}
	ln, err := server.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	at, err := netip.ParseAddrPort(ln.Addr().String())
	if err != nil {
		return nil, err
	}
	client, err := join(clientName, func(c *mesh.Config) { c.Discovery = static.New(discovery.Endpoint{Service: serverName, Addr: at}) })
	if err != nil {
		return nil, err
	}
	times := make(chan int, 1)
	failed := make(chan error, 1)
	go func() {
		s := &http.Server{Handler: server.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // it serves the bench alone
			call := of(server, w, r)
			var err error
			for range <-times {
				err = errors.Join(err, call())
			}
			failed <- err
		}))}
		_ = s.Serve(ln)
	}()
	web := client.HTTPClient()
	return func(n int) error {
		times <- n
		resp, err := web.Get("http://" + serverName + "/bytes/1024") //nolint:noctx // it serves the bench alone
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %w", resp.Status, err)
		}
		return <-failed
	}, nil
}

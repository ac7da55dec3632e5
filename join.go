package mesh

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/intramesh/mesh/internal/dirlock"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// lockState takes Config.StateDir for this process, until Close.
func (m *Mesh) lockState() error {
	dir := m.cfg.StateDir
	if dir == "" {
		return nil
	}
	err := atomicfile.MkdirAll(dir)
	var lock *os.File
	if err == nil {
		lock, err = dirlock.Acquire(dir)
	}
	if err != nil {
		return fmt.Errorf("Config.StateDir: %w", err)
	}
	m.closers = append(m.closers, func(context.Context) error { return lock.Close() })
	return nil
}

// stateDir returns a folder of Config.StateDir, made when needed, or "" when nothing is kept.
func (m *Mesh) stateDir(name string) (string, error) {
	if m.cfg.StateDir == "" {
		return "", nil
	}
	dir := filepath.Join(m.cfg.StateDir, name)
	if err := atomicfile.MkdirAll(dir); err != nil {
		return "", fmt.Errorf("Config.StateDir: %w", err)
	}
	return dir, nil
}

// enrol gets an identity from the control plane's authority, or from an earlier run.
func (m *Mesh) enrol(ctx context.Context, b *Bootstrap) error {
	dir, err := m.stateDir("identity")
	if err != nil {
		return err
	}
	cfg := identity.StepCAConfig{
		URL: b.CA, Others: m.knownCAs(), EnrolURL: b.Enrol, RootFingerprint: b.RootFingerprint, Token: b.Token, Dir: dir, Logger: m.log,
		DialContext: m.cfg.Network.DialContext,
	}
	if service := cmp.Or(m.cfg.Service, b.Service); service != "" {
		td, err := spiffeid.TrustDomainFromString(b.TrustDomain)
		if err != nil {
			return fmt.Errorf("Config.Bootstrap: trust_domain: %w", err)
		}
		if cfg.ID, err = spiffeid.FromPath(td, "/"+service); err != nil {
			return fmt.Errorf("Config.Bootstrap: service: %w", err)
		}
	}
	switch {
	case b.KubernetesToken != "":
		cfg.Prove = identity.KubernetesToken(b.KubernetesToken)
	case b.CertFile != "":
		cfg.Prove = identity.X509Proof(b.CertFile, b.KeyFile, cfg.ID)
	}
	ca, err := identity.NewStepCA(ctx, cfg)
	if err != nil {
		return err
	}
	m.closers = append(m.closers, func(context.Context) error { return ca.Close() })
	m.identity = ca
	return nil
}

// knownCAs are servers of the authority beside Bootstrap.CA, those that an earlier run was told of too.
func (m *Mesh) knownCAs() []string {
	others := m.cfg.Bootstrap.OtherCAs
	dir, err := m.stateDir("gossip")
	if err != nil {
		return others
	}
	if j, err := loadJoin(dir); err == nil && j != nil { // fetchJoin tells what is wrong with it
		others = append(slices.Clip(others), j.CAs...)
	}
	return others
}

// connect finds the other members and the rules.
func (m *Mesh) connect(ctx context.Context, b *Bootstrap) error {
	for _, a := range b.Control {
		if m.facing = facingAddr(ctx, a); m.facing.IsValid() {
			break
		}
	}
	control := static.New(controlEndpoints(ctx, b.Control, m.log)...)
	if m.discovery == nil {
		// Only the control plane is known yet: ask it for the rest.
		m.balance = newBalancers(control, m.cfg.Zone)
		if err := m.joinGossip(ctx, b); err != nil {
			return err
		}
	}
	m.discover()
	m.balance = newBalancers(withControl{m.discovery, control}, m.cfg.Zone)
	if m.rules == nil {
		return nil
	}
	m.rules.Start()
	return m.rules.WaitFirst(ctx)
}

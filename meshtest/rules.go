package meshtest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Allow returns a document that lets callers use every port and method of a service. Both are
// written as in a document's fields: "payments", "billing/*" or "*". For anything finer, write
// the document itself.
func Allow(service string, callers ...string) string {
	clean := strings.NewReplacer("/", ".", "*", "any")
	data, err := json.Marshal(policy.Document{
		APIVersion: policy.APIVersion,
		Kind:       policy.Kind,
		Metadata:   policy.Metadata{Name: clean.Replace(strings.Join(callers, "-") + "-to-" + service)},
		Spec: policy.Spec{
			Service: service,
			Action:  policy.ActionAllow,
			Rules:   []policy.Rule{{From: []policy.Source{{Services: callers}}}},
		},
	})
	if err != nil {
		panic("meshtest: a struct of strings did not marshal: " + err.Error())
	}
	return string(data)
}

// rules is the mesh's policy.Authorizer. Its engine can be replaced.
type rules struct {
	trustDomain spiffeid.TrustDomain
	engine      atomic.Pointer[policy.Engine]

	mu      sync.RWMutex
	version uint64
	changed chan struct{}
}

func newRules(td spiffeid.TrustDomain) *rules {
	return &rules{trustDomain: td, changed: make(chan struct{})}
}

func (r *rules) set(documents []string) error {
	docs, err := policy.Parse("rules", []byte(strings.Join(documents, "\n")))
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	engine, err := policy.Compile(&policy.Bundle{TrustDomain: r.trustDomain, Version: r.version + 1, Documents: docs})
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	r.engine.Store(engine)
	r.version++
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

// Authorize implements [policy.Authorizer].
func (r *rules) Authorize(ctx context.Context, req *policy.Request) policy.Decision {
	return r.Engine().Authorize(ctx, req)
}

// Early is [policy.Engine.Early].
func (r *rules) Early(req *policy.Request, callee uint64) (policy.Decision, bool) {
	return r.Engine().Early(req, callee)
}

// Engine returns the rules in force, see [policy.EngineOf].
func (r *rules) Engine() *policy.Engine { return r.engine.Load() }

// Pin looks the rules for a connection up once, see [policy.Pinned].
func (r *rules) Pin(req *policy.Request) policy.Authorizer { return policy.PinTo(&r.engine, req) }

// Changed makes open connections be decided again, see [policy.Authorizer].
func (r *rules) Changed() <-chan struct{} {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.changed
}

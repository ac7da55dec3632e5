package mesh

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
)

// refusals remembers which version of the rules an endpoint enforced when it last refused us. While ours is the same, and is the
// newest, it need not be asked what we know it would say. Who is never refused pays for an atomic load. The zero value is ready.
type refusals struct {
	some atomic.Bool

	mu    sync.Mutex
	heard map[refuser]refusal
}

type refuser struct {
	target target
	addr   netip.AddrPort
}

type refusal struct {
	version uint64
	at      time.Time
}

const (
	// refusalCounts is how long an endpoint's word is taken for granted: so long, at most, an early denial may outlive a change that the
	// endpoint knows of and we do not.
	refusalCounts = 10 * time.Second
	maxRefusers   = 1024
)

func (f *refusals) add(from refuser, d *DeniedError) {
	if d.Version == 0 {
		return // it did not say
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.heard == nil || len(f.heard) >= maxRefusers {
		f.heard = make(map[refuser]refusal) // they are asked once more
	}
	f.heard[from] = refusal{d.Version, time.Now()}
	f.some.Store(true)
}

// version returns what is known of an endpoint's rules, 0 for nothing.
func (f *refusals) version(from refuser) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.heard[from]
	if ok && time.Since(r.at) > refusalCounts {
		delete(f.heard, from)
		f.some.Store(len(f.heard) > 0)
		return 0
	}
	return r.version
}

// early returns the denial that an endpoint is sure to give, nil when it must be asked. fill says what is asked.
func (m *Mesh) early(ctx context.Context, t target, addr netip.AddrPort, fill func(*policy.Request)) *DeniedError {
	if !m.refusals.some.Load() || t.service == wire.ControlService { // whose rules come from there
		return nil
	}
	version := m.refusals.version(refuser{t, addr})
	rules, ok := m.policy.(interface {
		Early(r *policy.Request, callee uint64) (policy.Decision, bool)
	})
	if version == 0 || !ok {
		return nil
	}
	r := &policy.Request{Source: m.ID(), Destination: t.service, Port: t.port}
	dec, sure := rules.Early(r, version) // of the whole connection
	fill(r)
	if !sure && r.Layer != policy.LayerConnection {
		dec, sure = rules.Early(r, version)
	}
	if !sure {
		return nil
	}
	d := &DeniedError{Source: r.Source.String(), Destination: r.Destination, Port: r.Port, Decision: dec}
	m.decisions.early(ctx, d, r, addr)
	return d
}

// Early returns the denial that the endpoint at addr of a service ("payments" or "payments:admin") is sure to give, nil when
// it must be asked: it has refused this process a moment ago by the very rules that are in force here, and are known to be the
// newest. fill sets what [policy.Engine.Early] wants to know of the request besides its ends. For adapters.
func (m *Mesh) Early(ctx context.Context, address string, addr netip.AddrPort, fill func(*policy.Request)) *DeniedError {
	if !m.refusals.some.Load() {
		return nil
	}
	if t, err := parseTarget(address); err == nil {
		return m.early(ctx, t, addr, fill)
	}
	return nil
}

// Refused says that the endpoint at addr of a service has refused a request of ours; [Mesh.Early] goes by that. For adapters.
func (m *Mesh) Refused(address string, addr netip.AddrPort, d *DeniedError) {
	if t, err := parseTarget(address); err == nil {
		m.refusals.add(refuser{t, addr}, d)
	}
}

// earlyResponse returns the response that an endpoint is sure to give to an HTTP request, nil when it must be asked.
func (m *Mesh) earlyResponse(t target, addr netip.AddrPort, req *http.Request) *http.Response {
	if !m.refusals.some.Load() {
		return nil
	}
	path, host, ok := soleReading(req)
	if !ok {
		return nil // the endpoint has words for it
	}
	d := m.early(req.Context(), t, addr, func(r *policy.Request) {
		r.Layer, r.Method, r.Path, r.Host = policy.LayerHTTP, req.Method, path, host
		if r.Method == "" {
			r.Method = http.MethodGet
		}
	})
	if d == nil {
		return nil
	}
	w := &responseInMemory{header: make(http.Header)}
	writeDenied(w, req, d)
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status,
		Proto: "HTTP/2.0", ProtoMajor: 2, Header: w.header,
		Body: io.NopCloser(strings.NewReader(w.body.String())), ContentLength: int64(w.body.Len()), Request: req,
	}
}

// soleReading returns the path and host that a server will read in a request, if it will be the only reading.
func soleReading(req *http.Request) (path, host string, ok bool) {
	if req.URL.Opaque != "" || req.Method == http.MethodConnect {
		return "", "", false
	}
	host, err := canonicalHost(req.Host)
	if req.URL.Path == "" {
		return "/", host, err == nil
	}
	path, perr := canonicalPath(req)
	return path, host, err == nil && perr == nil
}

// responseInMemory is an http.ResponseWriter.
type responseInMemory struct {
	header http.Header
	status int
	body   strings.Builder
}

func (w *responseInMemory) Header() http.Header         { return w.header }
func (w *responseInMemory) WriteHeader(status int)      { w.status = status }
func (w *responseInMemory) Write(b []byte) (int, error) { return w.body.Write(b) }

package mesh

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/internal/onehttp"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
)

const (
	// controlTimeout bounds one short call to the control plane.
	controlTimeout = 5 * time.Second
	// pollWait is how long the control plane may hold a request for newer rules.
	pollWait = 50 * time.Second
)

// controlEndpoints resolves the addresses of the control plane. A name that can't be resolved now is no reason not to
// start from what is on disk.
func controlEndpoints(ctx context.Context, hostports []string, log *slog.Logger) []discovery.Endpoint {
	var eps []discovery.Endpoint
	for _, hp := range hostports {
		addrs, err := resolve(ctx, hp)
		if err != nil {
			log.Warn("an address of the control plane could not be resolved", "addr", hp, "error", err)
		}
		for _, a := range addrs {
			eps = append(eps, discovery.Endpoint{Service: wire.ControlService, Instance: "bootstrap-" + a.String(), Addr: a})
		}
	}
	return eps
}

func resolve(ctx context.Context, hostport string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(n)))
	}
	return addrs, nil
}

// withControl knows the control plane by its bootstrap addresses as long as discovery does not know it.
type withControl struct {
	discovery.Resolver
	control discovery.Resolver
}

func (r withControl) Lookup(service string) discovery.Snapshot {
	s := r.Resolver.Lookup(service)
	if service == wire.ControlService && len(s.Endpoints) == 0 {
		s.Endpoints = r.control.Lookup(service).Endpoints
	}
	return s
}

// controlGet calls the control plane over the mesh. A nil body and a nil error is 204.
func (m *Mesh) controlGet(ctx context.Context, path string, q url.Values, timeout time.Duration, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	keeps := m.control.TryLock()
	if keeps { // and no poll has the connection for a minute
		defer m.control.Unlock()
	}
	for {
		var c *onehttp.Conn
		if keeps {
			c, m.control.conn = m.control.conn, nil
		}
		used := c != nil
		if !used {
			raw, err := m.dial(ctx, target{service: wire.ControlService}, []string{alpnHTTP1})
			if err != nil {
				return nil, err
			}
			c = onehttp.NewConn(raw)
			c.Silence = wire.PollSilence
		}
		body, reuse, err := get(ctx, c, path, q, limit)
		if reuse && keeps {
			m.control.conn = c
		} else {
			_ = c.Close()
		}
		if err != nil && used && !reuse && ctx.Err() == nil {
			continue // the server closed it while it was idle, or is another one now
		}
		return body, err
	}
}

// controlConn is the connection to the control plane that is kept between calls.
type controlConn struct {
	sync.Mutex
	conn *onehttp.Conn // nil when there is none
}

// openRules makes m.rules, which begins with the last good ones.
func (m *Mesh) openRules(b *Bootstrap) error {
	dir, err := m.stateDir("rules")
	if err != nil {
		return err
	}
	s, err := policy.NewSyncer(policy.SyncConfig{
		TrustDomain: m.trustDomain, Keys: b.signers(), Dir: dir, Logger: m.log, Fetch: m.fetchRules, FetchElsewhere: m.askPeersForRules,
	})
	if err != nil {
		return err
	}
	m.policy, m.rules = s, s
	return nil
}

func (m *Mesh) fetchRules(ctx context.Context, r policy.FetchRequest) ([]byte, error) {
	q := url.Values{
		"after": {strconv.FormatUint(r.After, 10)}, "wait": {pollWait.String()}, "instance": {m.instance()},
	}
	if r.Reason != "" {
		q.Set("refused", strconv.FormatUint(r.Refused, 10))
		q.Set("reason", r.Reason)
	}
	if keys := m.keys.names(); keys != "" {
		q.Set("keys", keys)
	}
	if m.gossip != nil && m.gossip.Observes() {
		q.Set("observes", "1")
	}
	ctx, stop := m.warnings.report(ctx, q)
	defer stop()
	ctx, stop = m.reportTrust(ctx, q)
	defer stop()
	body, err := m.controlGet(ctx, wire.PathBundle, q, pollWait+controlTimeout, wire.MaxBundleBytes)
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, errWarnings) || errors.Is(cause, errTrust)) {
		return nil, policy.ErrFetchAgain // with what there is to report
	}
	if errors.Is(err, errKeysChanged) {
		if err := m.changeKeys(ctx); err != nil {
			return nil, err
		}
		return nil, policy.ErrFetchAgain
	}
	return body, err
}

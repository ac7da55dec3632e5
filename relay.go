package mesh

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/intramesh/mesh/internal/onehttp"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
)

// When the control plane is gone, members hand each other what it last said: the signed rules and how to gossip. Every
// listener speaks alpnPeer for that, to any member of its own trust domain. The rules are trusted for their
// signature, not for who hands them over.
const (
	alpnPeer = "mesh-peer/1"
	// relayTimeout bounds one exchange with a peer, relayPeers how many are asked in turn.
	relayTimeout = 3 * time.Second
	relayPeers   = 3
)

// servePeer answers one member's question.
func (m *Mesh) servePeer(ctx context.Context, sc *serverConn, t *tls.Conn) {
	if !sc.net.peer.ID.MemberOf(m.trustDomain) {
		_ = t.Close() // what holds the mesh together is for its members
		return
	}
	_ = t.SetDeadline(time.Now().Add(relayTimeout))
	defer context.AfterFunc(ctx, func() { _ = sc.net.Close() })() // Close waits for us
	err := onehttp.Serve(t, func(method string, u *url.URL) (int, []byte) {
		switch {
		case method == http.MethodGet && u.Path == wire.PathJoin:
			return m.answerJoin()
		case method == http.MethodGet && u.Path == wire.PathBundle && m.rules != nil:
			after, err := strconv.ParseUint(u.Query().Get("after"), 10, 64)
			switch {
			case err != nil:
				return http.StatusBadRequest, nil
			case m.rules.Version() <= after:
				return http.StatusNoContent, nil
			}
			return http.StatusOK, m.rules.Bundle()
		}
		return http.StatusNotFound, nil
	})
	if err != nil {
		m.decisions.unanswered(ctx, sc.net.peer, err)
	}
	_ = t.Close()
}

// askPeer asks one member, whoever of the trust domain it is. A nil answer and a nil error is 204.
func (m *Mesh) askPeer(ctx context.Context, addr netip.AddrPort, path string, q url.Values, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	c, err := m.dialEndpoint(ctx, target{}, addr, []string{alpnPeer})
	if err != nil {
		return nil, err
	}
	conn := onehttp.NewConn(c)
	defer conn.Close()
	body, _, err := get(ctx, conn, path, q, limit)
	return body, err
}

// encoded writes a query. [url.Values.Encode], which sorts it, would be 3 KB of every program.
func encoded(q url.Values) string {
	var parts []string
	for key, values := range q {
		for _, v := range values {
			parts = append(parts, url.QueryEscape(key)+"="+url.QueryEscape(v))
		}
	}
	return strings.Join(parts, "&")
}

// get makes one request of those in package wire. A nil body and a nil error is 204.
func get(ctx context.Context, c *onehttp.Conn, path string, q url.Values, limit int64) (body []byte, reuse bool, err error) {
	status, body, reuse, err := c.Do(ctx, http.MethodGet, &url.URL{Host: "mesh", Path: path, RawQuery: encoded(q)}, nil, limit)
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("%s: %w", path, err)
	case status == http.StatusNoContent:
		return nil, reuse, nil
	case status == http.StatusResetContent:
		return nil, reuse, errKeysChanged
	case status != http.StatusOK:
		return nil, reuse, fmt.Errorf("%s: the answer is HTTP status %d", path, status)
	}
	return body, reuse, nil
}

// askPeers asks a few members in random order until accept takes an answer. A member that answers nonsense
// keeps nobody from asking the next one.
func (m *Mesh) askPeers(ctx context.Context, path string, q url.Values, limit int64, accept func([]byte) error) {
	peers := m.peerAddrs(ctx)
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] }) //nolint:gosec // any order will do
	m.preferNewer(peers)
	for _, addr := range peers[:min(len(peers), relayPeers)] {
		body, err := m.askPeer(ctx, addr, path, q, limit)
		switch {
		case err != nil:
			m.log.Debug("a peer could not be asked", "addr", addr.String(), "path", path, "error", err)
			continue
		case body == nil:
			continue
		}
		if err := accept(body); err != nil {
			m.log.Warn("what a peer handed out was refused", "addr", addr.String(), "path", path, "error", err)
			continue
		}
		return
	}
}

// askPeersForRules returns a signed bundle newer than the version in force, or nil.
func (m *Mesh) askPeersForRules(ctx context.Context, r policy.FetchRequest) []byte {
	after := r.After
	q := url.Values{"after": {strconv.FormatUint(after, 10)}}
	var bundle []byte
	m.askPeers(ctx, wire.PathBundle, q, wire.MaxBundleBytes, func(body []byte) error {
		b, err := policy.Open(body, m.cfg.Bootstrap.signers(), m.trustDomain)
		if err == nil && b.Version <= after {
			err = fmt.Errorf("bundle v%d: v%d is in force: %w", b.Version, after, policy.ErrOlder)
		}
		if err == nil {
			bundle = body
		}
		return err
	})
	return bundle
}

// tellBundle has the gossip say which rules are in force here, for whoever can't ask the control plane.
func (m *Mesh) tellBundle() {
	if g := m.gossip; g != nil && m.rules != nil {
		g.SetBundle(m.rules.Version())
	}
}

// preferNewer puts one peer first, of those that say in gossip that they have newer rules. It is one alone: they may lie.
func (m *Mesh) preferNewer(peers []netip.AddrPort) {
	g := m.gossip
	if g == nil || m.rules == nil {
		return
	}
	says := make(map[netip.AddrPort]bool)
	for _, p := range g.Members() {
		if p.Bundle > m.rules.Version() && len(p.Endpoints) > 0 {
			says[p.Endpoints[0].Addr] = true
		}
	}
	if i := slices.IndexFunc(peers, func(a netip.AddrPort) bool { return says[a] }); i > 0 {
		peers[0], peers[i] = peers[i], peers[0]
	}
}

// peerAddrs lists one listener of each member that has one, but the control plane.
func (m *Mesh) peerAddrs(ctx context.Context) []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, p := range m.cfg.Bootstrap.Peers {
		found, err := resolve(ctx, p)
		if err != nil {
			m.log.Warn("a peer's address could not be resolved", "addr", p, "error", err)
		}
		addrs = append(addrs, found...)
	}
	if g := m.gossip; g != nil {
		for _, p := range g.Members() {
			if !p.Self && p.Suspect.IsZero() && len(p.Endpoints) > 0 && p.Endpoints[0].Service != wire.ControlService {
				addrs = append(addrs, p.Endpoints[0].Addr)
			}
		}
	}
	known := make(map[netip.AddrPort]bool, len(addrs))
	once := addrs[:0]
	for _, a := range addrs {
		if !known[a] {
			known[a] = true
			once = append(once, a)
		}
	}
	return once
}

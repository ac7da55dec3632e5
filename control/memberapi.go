package control

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/internal/wire"
)

// maxWait bounds how long a request for newer rules is held.
const maxWait = 55 * time.Second

// memberAPI is what members ask over the mesh; see package wire.
func (s *Server) memberAPI() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.PathJoin, s.serveJoin)
	mux.HandleFunc("GET "+wire.PathBundle, s.serveBundle)
	mux.HandleFunc("GET "+pathPolls, s.servePolls)
	return mux
}

// member returns the caller's name and certificate, unless that was revoked.
func (s *Server) member(w http.ResponseWriter, r *http.Request) (peer mesh.Peer, cert *x509.Certificate, ok bool) {
	peer, ok = mesh.PeerFromContext(r.Context())
	if !ok || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		http.Error(w, "members only", http.StatusForbidden)
		return peer, nil, false
	}
	now, _ := s.pub.current()
	if err := now.engine.Revoked(peer.ID, r.TLS.PeerCertificates); err != nil {
		s.log.WarnContext(r.Context(), "a member was turned away", "service", peer.Service(), "remote", peer.Addr, "error", err)
		http.Error(w, err.Error(), http.StatusForbidden)
		return peer, nil, false
	}
	return peer, r.TLS.PeerCertificates[0], true
}

func (s *Server) serveJoin(w http.ResponseWriter, r *http.Request) {
	if _, _, ok := s.member(w, r); !ok {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	j := wire.Join{ObserveBeyond: max(0, s.settings.ObserveBeyond), ProbeInterval: s.settings.ProbeInterval, Seeds: s.seeds(), CAs: caURLs(s.replicas.all())}
	if large := j.ObserveBeyond > 0 && s.gossip.PoolSize() > j.ObserveBeyond; !large || !r.URL.Query().Has("observes") {
		j.GossipKeys = s.keyring.current()
	}
	_ = json.NewEncoder(w).Encode(j) // the member is gone: nobody to tell
}

func (s *Server) serveBundle(w http.ResponseWriter, r *http.Request) {
	peer, cert, ok := s.member(w, r)
	if !ok {
		return
	}
	q, wait, err := parsePoll(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	q.service, q.addr, q.serial = peer.Service(), peer.Addr, cert.SerialNumber.Text(16)
	defer s.polls.begin(q)()
	if q.reason != "" {
		s.log.WarnContext(r.Context(), "a member refused a bundle", "service", q.service, "instance", q.instance,
			"refused", q.refused, "in_force", q.version, "reason", q.reason)
	}
	if now, _ := s.pub.current(); q.version > now.rules.Version {
		s.log.ErrorContext(r.Context(), "a member has newer rules than the control plane, and takes none until the version is beyond its own: was the store restored from a backup?",
			"service", q.service, "instance", q.instance, "member_has", q.version, "control_has", now.rules.Version)
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	var keysChanged <-chan struct{}
	if q.keys != "" { // it gossips
		keys, changed := s.keyring.names()
		if keys != q.keys {
			w.WriteHeader(http.StatusResetContent)
			return
		}
		keysChanged = changed
	}
	for {
		beat, cancel := context.WithTimeout(ctx, wire.PollBeat)
		next, ok := s.pub.newer(beat, q.version, keysChanged)
		cancel()
		select {
		case <-keysChanged:
			w.WriteHeader(http.StatusResetContent)
			return
		default:
		}
		switch {
		case ok:
			w.Header().Set("Content-Type", "application/octet-stream")
			_, _ = w.Write(next.signed) // the member is gone: nobody to tell
			return
		case ctx.Err() != nil:
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.WriteHeader(http.StatusProcessing) // we are still there
	}
}

const (
	maxInstance = 63
	maxReason   = 512
	maxKeyNames = 9 * gossip.MaxKeys
)

func parsePoll(v url.Values) (q poll, wait time.Duration, err error) {
	number := func(key string) uint64 {
		n, e := strconv.ParseUint(v.Get(key), 10, 64)
		if e != nil && v.Has(key) {
			err = e
		}
		return n
	}
	q = poll{instance: cut(v.Get("instance"), maxInstance), version: number("after"), refused: number("refused"), reason: cut(v.Get("reason"), maxReason), keys: cut(v.Get("keys"), maxKeyNames), observes: v.Has("observes")}
	for _, w := range v["warning"][:min(len(v["warning"]), wire.MaxWarnings)] {
		q.warnings = append(q.warnings, cut(w, wire.MaxWarning))
	}
	for _, r := range v["root"][:min(len(v["root"]), wire.MaxRoots)] {
		q.roots = append(q.roots, cut(r, 2*sha256.Size))
	}
	q.issuer = cut(v.Get("issuer"), 2*sha256.Size)
	if v.Has("wait") {
		var e error
		if wait, e = time.ParseDuration(v.Get("wait")); e != nil {
			err = e
		}
	}
	return q, min(max(wait, 0), maxWait), err
}

// cut bounds what a member says about itself, and makes it safe to print.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

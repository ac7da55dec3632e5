package control

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/wire"
)

// Each member asks one replica for rules, and tells that one what it enforces. Who wants to know it of all members asks all
// replicas: over the members' listener, which gives the answer to control planes alone.

// pathPolls is what replicas ask each other.
const pathPolls = "/v1/polls"

const (
	pollsTimeout  = 3 * time.Second
	maxPollsBytes = 64 << 20
)

// told is what a replica knows from members that ask it.
type told struct {
	Version uint64     `json:"version"`
	Polls   []toldPoll `json:"polls"`
}

// toldPoll is a [poll] in JSON.
type toldPoll struct {
	Service  string         `json:"service"`
	Instance string         `json:"instance"`
	Serial   string         `json:"serial"`
	Addr     netip.AddrPort `json:"addr"`
	Version  uint64         `json:"version"`
	Refused  uint64         `json:"refused,omitempty"`
	Reason   string         `json:"reason,omitempty"`
	Warnings []string       `json:"warnings,omitempty"`
	Observes bool           `json:"observes,omitempty"`
	At       time.Time      `json:"at"`
	Open     int            `json:"open"`
}

func (s *Server) servePolls(w http.ResponseWriter, r *http.Request) {
	peer, ok := mesh.PeerFromContext(r.Context())
	if !ok || peer.ID.TrustDomain() != s.ca.TrustDomain() || peer.Service() != wire.ControlService {
		http.Error(w, "control planes only", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.told()) // the other replica is gone: nobody to tell
}

func (s *Server) told() told {
	now, _ := s.pub.current()
	t := told{Version: now.rules.Version}
	for _, q := range s.polls.recent() {
		t.Polls = append(t.Polls, toldPoll{q.service, q.instance, q.serial, q.addr, q.version, q.refused, q.reason, q.warnings, q.observes, q.at, q.open})
	}
	return t
}

// everywhere returns the last poll of each member, at whichever replica, and how the replicas are, this one first.
func (s *Server) everywhere(ctx context.Context) ([]poll, []admin.Replica) {
	all := s.replicas.all()
	answers := make([]told, len(all))
	replicas := make([]admin.Replica, len(all))
	answers[0] = s.told()
	var wg sync.WaitGroup
	for i, at := range all {
		replicas[i].Addr = at.Mesh
		if i == 0 {
			continue
		}
		wg.Go(func() {
			var err error
			if answers[i], err = s.askReplica(ctx, at.Mesh); err != nil {
				replicas[i].Problem = err.Error()
			}
		})
	}
	wg.Wait()
	last := make(map[pollKey]toldPoll)
	for i, a := range answers {
		replicas[i].Version, replicas[i].Members = a.Version, len(a.Polls)
		for _, q := range a.Polls {
			key := pollKey{q.Service, q.Instance}
			if had, twice := last[key]; !twice || newer(q, had) {
				last[key] = q
			}
		}
	}
	polls := make([]poll, 0, len(last))
	for _, q := range last {
		polls = append(polls, poll{
			service: q.Service, instance: q.Instance, serial: q.Serial, addr: q.Addr, version: q.Version, refused: q.Refused,
			reason: q.Reason, warnings: q.Warnings, observes: q.Observes, at: q.At, open: q.Open,
		})
	}
	slices.SortFunc(polls, func(a, b poll) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.instance, b.instance))
	})
	return polls, replicas
}

// newer reports whether a says more than b about where a member is now: it is asking, or asked later.
func newer(a, b toldPoll) bool {
	if (a.Open > 0) != (b.Open > 0) {
		return a.Open > 0
	}
	return a.At.After(b.At)
}

// askReplica asks another control plane, which must prove to be one.
func (s *Server) askReplica(ctx context.Context, addr string) (t told, err error) {
	ctx, cancel := context.WithTimeout(ctx, pollsTimeout)
	defer cancel()
	tr := &http.Transport{TLSClientConfig: s.replicaTLS(), DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+pathPolls, http.NoBody)
	if err != nil {
		return t, err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return t, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return t, fmt.Errorf("the answer is %s", resp.Status)
	}
	return t, json.NewDecoder(io.LimitReader(resp.Body, maxPollsBytes)).Decode(&t)
}

func (s *Server) replicaTLS() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // it skips the host name check alone: VerifyConnection verifies the SVID
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := identity.Verify(cs.PeerCertificates, s.ca.Bundle())
			if err != nil {
				return err
			}
			if !id.MemberOf(s.ca.TrustDomain()) || identity.ServiceName(id) != wire.ControlService {
				return fmt.Errorf("%s answers, which is not a control plane of this mesh", id)
			}
			return nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			svid, err := s.source.GetX509SVID()
			if err != nil {
				return nil, err
			}
			c := &tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
			for _, cert := range svid.Certificates {
				c.Certificate = append(c.Certificate, cert.Raw)
			}
			return c, nil
		},
	}
}

// Members joins what the pool knows with what members said when they asked for rules, at any replica.
func (s operator) Members(ctx context.Context) ([]admin.Member, error) {
	polls, _ := s.everywhere(ctx)
	return joinMembers(s.gossip.Members(), polls, s.rules.Rules().Version), nil
}

// Status counts who has the current rules.
func (s operator) Status(ctx context.Context) (admin.Status, error) {
	version := s.rules.Rules().Version
	polls, replicas := s.everywhere(ctx)
	return admin.NewStatus(version, joinMembers(s.gossip.Members(), polls, version), replicas, wire.ControlService), nil
}

// Audit returns the end of the log.
func (s operator) Audit(ctx context.Context, n int) ([]store.AuditEntry, error) {
	all := []store.AuditEntry{}
	for e, err := range store.AuditLog(ctx, s.db) {
		if err != nil {
			return nil, err
		}
		all = append(all, e)
		if len(all) > 2*n { // the log may be long
			all = append(all[:0], all[len(all)-n:]...)
		}
	}
	return all[max(0, len(all)-n):], nil
}

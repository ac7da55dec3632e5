// Package enrol decides whom the certificate authority gives a first certificate. A process shows a proof: a join
// token, a Kubernetes service-account token, or a certificate of another authority. Each allows certain services and
// no other. What the process gets for it is a one-time token of step-ca, bound to the one certificate request that
// it named, so that neither a proof nor a one-time token on its way is of use to anybody else.
package enrol

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/intramesh/mesh/control/internal/names"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/internal/wire"
)

// Config tells [New] what to accept.
type Config struct {
	// TrustDomain is the mesh's.
	TrustDomain string
	// DB keeps the join tokens.
	DB store.DB
	// Issue makes a one-time token for a service and a certificate request (its SHA-256 in base64url).
	Issue func(service, csr string) (string, error)
	// Admit, if not nil, has a last word on who has proved that it may be service. The asker is told an error
	// of [Forbid], and of others only that it may try again.
	Admit func(ctx context.Context, service string) error
	// Settings are the operator's.
	Settings Settings
	// Logger takes who was let in and who was not; nil discards it.
	Logger *slog.Logger
}

// Settings are the part "enrol" of mesh.yaml. Its zero value accepts join tokens alone.
type Settings struct {
	// Kubernetes lists the clusters whose service accounts enrol.
	Kubernetes []Kubernetes `yaml:"kubernetes,omitempty"`
	// X509 lists the authorities whose certificates enrol.
	X509 []X509 `yaml:"x509,omitempty"`
}

// A Gate is an HTTP handler of [wire.PathEnrol], and keeps the join tokens. It is safe for concurrent use; whoever
// makes it closes it.
type Gate struct {
	cfg      Config
	log      *slog.Logger
	tokens   store.Table[tokenRecord]
	clusters []*cluster
	x509     []*authority

	redeeming sync.Mutex // many that use one token at once wait, instead of conflicting
}

// New checks the settings and reads the files that they name.
func New(cfg Config) (*Gate, error) {
	g := &Gate{cfg: cfg, log: cfg.Logger, tokens: store.Table[tokenRecord]{DB: cfg.DB, Kind: store.KindTokens}}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	for i, k := range cfg.Settings.Kubernetes {
		c, err := newCluster(k, g.log)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("enrol: kubernetes[%d]: %w", i, err), g.Close())
		}
		g.clusters = append(g.clusters, c)
	}
	for i, x := range cfg.Settings.X509 {
		a, err := newAuthority(x)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("enrol: x509[%d]: %w", i, err), g.Close())
		}
		g.x509 = append(g.x509, a)
	}
	return g, nil
}

// Close ends what is being fetched.
func (g *Gate) Close() (err error) {
	for _, c := range g.clusters {
		err = errors.Join(err, c.tokens.Close())
	}
	return err
}

// ask is a request to be let in.
type ask struct {
	proof, service string
	csr            string // base64url of a SHA-256
	from           netip.Addr
}

// A refusal is an error that the asker may see, with its HTTP status.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

func refuse(format string, args ...any) error {
	return &refusal{http.StatusUnauthorized, fmt.Sprintf(format, args...)}
}

// Forbid makes an error one that the asker is told.
func Forbid(err error) error { return &refusal{http.StatusForbidden, err.Error()} }

const (
	maxRequest = 32 << 10
	maxProof   = 16 << 10
	// proveTimeout bounds a check that needs keys from elsewhere, below the server's limit for an answer.
	proveTimeout = 12 * time.Second
)

// ServeHTTP answers with a one-time token, or says why not.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), proveTimeout)
	defer cancel()
	kind, a, err := parse(w, r)
	var who, ott string
	if err == nil {
		who, err = g.check(ctx, kind, a)
	}
	if err == nil && g.cfg.Admit != nil {
		err = g.cfg.Admit(ctx, a.service)
	}
	if err == nil {
		ott, err = g.cfg.Issue(a.service, a.csr)
	}
	w.Header().Set("Content-Type", "application/json")
	if err == nil {
		g.log.InfoContext(ctx, "enrolment allowed", "service", a.service, "kind", kind, "proof", who, "remote", r.RemoteAddr)
		_ = json.NewEncoder(w).Encode(wire.EnrolAnswer{OTT: ott}) // the asker is gone: nobody to tell
		return
	}
	no, ok := errors.AsType[*refusal](err)
	if !ok {
		no = &refusal{http.StatusServiceUnavailable, "the control plane can't check it now; try again"}
	}
	g.log.WarnContext(ctx, "enrolment refused", "service", a.service, "kind", kind, "remote", r.RemoteAddr, "error", err)
	w.WriteHeader(no.status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": no.status, "message": no.text})
}

// parse reads a request. What it returns on an error is safe to log.
func parse(w http.ResponseWriter, r *http.Request) (kind string, a ask, err error) {
	var q wire.EnrolRequest
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	if err := d.Decode(&q); err != nil {
		return "", a, &refusal{http.StatusBadRequest, "the body is not the expected JSON"}
	}
	if err := names.CheckOrdinary(q.Service); err != nil {
		return "", a, &refusal{http.StatusForbidden, err.Error()}
	}
	sum, err := base64.RawURLEncoding.DecodeString(q.CSR)
	if err != nil || len(sum) != sha256.Size {
		return "", a, &refusal{http.StatusBadRequest, "csr is not a SHA-256 in base64url"}
	}
	if q.Proof == "" || len(q.Proof) > maxProof {
		return "", a, &refusal{http.StatusBadRequest, fmt.Sprintf("the proof has %d bytes, want 1 to %d", len(q.Proof), maxProof)}
	}
	switch q.Kind {
	case wire.ProofToken, wire.ProofKubernetes, wire.ProofX509:
	default:
		return "", a, &refusal{http.StatusBadRequest, "this kind of proof is not known"}
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // the zero address is in no network
	return q.Kind, ask{proof: q.Proof, service: q.Service, csr: q.CSR, from: from.Addr().Unmap()}, nil
}

// check returns who has proved that it may be the service.
func (g *Gate) check(ctx context.Context, kind string, a ask) (who string, err error) {
	switch kind {
	case wire.ProofToken:
		return g.redeem(ctx, a)
	case wire.ProofKubernetes:
		return g.checkKubernetes(ctx, a)
	default:
		return g.checkX509(a)
	}
}

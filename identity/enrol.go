package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/intramesh/mesh/internal/wire"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// A Proof is what a control plane trades for a one-time token of its CA, after checking it.
type Proof struct {
	// Kind is "token", "kubernetes" or "x509".
	Kind string
	// Value is a secret in most kinds.
	Value string
}

// A Prover makes a [Proof] each time that this process enrols: at the first start, and when its certificate
// expired before it could be renewed. csr is the SHA-256 of the certificate request, for proofs that are bound to
// it. Its errors must not contain the proof.
type Prover func(ctx context.Context, csr [sha256.Size]byte) (Proof, error)

// KubernetesToken proves with the projected service-account token in a file, which is read at each use: the
// kubelet replaces it long before it expires.
func KubernetesToken(path string) Prover {
	return func(context.Context, [sha256.Size]byte) (Proof, error) {
		raw, err := readFile(path, maxToken)
		if err != nil {
			return Proof{}, fmt.Errorf("the service-account token: %w", err)
		}
		token := strings.TrimSpace(string(raw))
		if token == "" {
			return Proof{}, fmt.Errorf("the service-account token: %s is empty", path)
		}
		return Proof{wire.ProofKubernetes, token}, nil
	}
}

// enrolment is how to get a first certificate: with a one-time token of step-ca, or a proof that the control
// plane trades for one.
type enrolment struct {
	id    spiffeid.ID
	token *tokenClaims
	prove Prover
}

// enrolment returns how this process may enrol, nil when it can't.
func (s *StepCA) enrolment() (*enrolment, error) {
	e := &enrolment{id: s.cfg.ID, prove: s.cfg.Prove}
	switch {
	case s.cfg.Token == "" && e.prove == nil:
		return nil, nil
	case s.cfg.Token != "" && e.prove != nil:
		return nil, errors.New("there are a token and a Prove: only one can count")
	case strings.HasPrefix(s.cfg.Token, wire.JoinTokenPrefix):
		proof := Proof{wire.ProofToken, s.cfg.Token}
		if len(proof.Value) > maxToken {
			return nil, fmt.Errorf("token of %d bytes is longer than %d", len(proof.Value), maxToken)
		}
		e.prove = func(context.Context, [sha256.Size]byte) (Proof, error) { return proof, nil }
	case s.cfg.Token != "":
		claims, err := parseToken(s.cfg.Token)
		if err != nil {
			return nil, err
		}
		if claims.root != "" && claims.root != s.cfg.RootFingerprint {
			return nil, fmt.Errorf("the token is for a CA with root %s, the configuration for one with root %s", claims.root, s.cfg.RootFingerprint)
		}
		if !e.id.IsZero() && e.id != claims.id {
			return nil, fmt.Errorf("the token is for %s, not %s", claims.id, e.id)
		}
		e.id, e.token = claims.id, &claims
	}
	if e.id.Path() == "" {
		return nil, errors.New("nothing says which service this is: set it (Config.Service, or StepCAConfig.ID)")
	}
	return e, nil
}

// enrol gets a first certificate, or one in place of one that has expired, and stores it.
func (s *StepCA) enrol(ctx context.Context, e *enrolment) error {
	trusted := x509bundle.New(e.id.TrustDomain())
	if have := s.snapshot.Load(); have != nil {
		trusted = have.bundle // the CA may have another root by now than the fingerprinted one
	} else {
		root, err := s.firstContact(ctx)
		if err != nil {
			return err
		}
		trusted.AddX509Authority(root)
	}
	roots, err := s.client.roots(ctx, trusted)
	if err != nil {
		return err
	}
	// Before the token is spent, so that a directory that can't be written to doesn't waste it.
	if err := saveRoots(s.cfg.Dir, s.cfg.RootFingerprint, roots); err != nil {
		return err
	}
	svid, err := s.obtain(ctx, e, roots)
	if err != nil {
		return explain(err, e)
	}
	if err := save(s.cfg.Dir, s.cfg.RootFingerprint, svid, roots); err != nil {
		return err
	}
	s.set(svid, roots)
	s.due.refresh = time.Now().Round(0).Add(jitter(s.cfg.RefreshRoots))
	s.log.Info("enrolled", "id", svid.ID.String(), "expires", expiry(svid.Certificates))
	return nil
}

// obtain trades the token or the proof for a certificate. A one-time token is sent once. A proof is traded
// again for the same request while there is no answer: that uses up no more of it.
func (s *StepCA) obtain(ctx context.Context, e *enrolment, roots *x509bundle.Bundle) (*x509svid.SVID, error) {
	req, err := newRequest(e.id)
	if err != nil {
		return nil, err
	}
	if e.prove == nil {
		return s.client.sign(ctx, req, s.cfg.Token, roots)
	}
	giveUp := time.Now().Add(patience)
	for failures := 1; ; failures++ {
		proof, err := e.prove(ctx, req.sum)
		if err != nil {
			return nil, err
		}
		svid, err := s.trade(ctx, proof, req, roots)
		if err == nil || ctx.Err() != nil || time.Now().After(giveUp) {
			return svid, err
		}
		if refused, ok := errors.AsType[*CAError](err); ok && refused.Status < http.StatusInternalServerError {
			return nil, err
		}
		s.log.Warn("enrolling did not work, trying again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay(failures, patience/10)):
		}
	}
}

func (s *StepCA) trade(ctx context.Context, proof Proof, req *request, roots *x509bundle.Bundle) (*x509svid.SVID, error) {
	var answer wire.EnrolAnswer
	err := s.enroller.do(ctx, verified(roots), http.MethodPost, "enrolment", wire.PathEnrol, wire.EnrolRequest{
		Kind: proof.Kind, Proof: proof.Value, Service: ServiceName(req.id), CSR: base64.RawURLEncoding.EncodeToString(req.sum[:]),
	}, &answer)
	if err != nil {
		return nil, err
	}
	return s.client.sign(ctx, req, answer.OTT, roots)
}

// explain adds what to do to a refusal of the token.
func explain(err error, e *enrolment) error {
	refused, ok := errors.AsType[*CAError](err)
	if !ok || refused.Status != http.StatusUnauthorized || e.token == nil {
		return err
	}
	why := "it was used before, or has expired"
	if !e.token.expires.IsZero() && time.Now().After(e.token.expires) {
		why = "it expired at " + e.token.expires.Format(time.RFC3339)
	}
	return fmt.Errorf("the token for %s was not accepted, likely because %s: get a new one, and keep a state directory so that restarts need none: %w", e.id, why, err)
}

// request is a certificate request with its key.
type request struct {
	id  spiffeid.ID
	key crypto.Signer
	pem string
	sum [sha256.Size]byte // of the DER
}

func newRequest(id spiffeid.ID) (*request, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id.URL()}}, key)
	if err != nil {
		return nil, err
	}
	text := pemText("CERTIFICATE REQUEST", der)
	return &request{id, key, text, sha256.Sum256(der)}, nil
}

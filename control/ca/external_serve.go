package ca

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/http"
	"slices"
	"time"

	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/smallstep/certificates/api"
	"github.com/smallstep/certificates/db"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// CreateExternal makes the directory of a CA that an external one signs for: with the key of the tokens that the control
// plane hands out, which is not the external provisioner's.
func CreateExternal(dir string) error {
	if err := atomicfile.MkdirAll(dir); err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	_, err := writeKey(dir, provisionerKeyFile)
	return err
}

// OpenExternal is [Open] for a CA whose certificates e signs. dir keeps what the control plane itself has of it. Until ctx is
// done it waits for e to be there, unless dir has certificates that still count.
func OpenExternal(ctx context.Context, cfg Config, td spiffeid.TrustDomain, e External, dir string) (c *CA, err error) {
	if c, err = newCA(cfg); err != nil {
		return nil, err
	}
	if err := c.openExternal(ctx, td, e, dir); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return c, nil
}

func (c *CA) openExternal(ctx context.Context, td spiffeid.TrustDomain, e External, dir string) (err error) {
	c.td = td
	if c.keys.provisioner, err = readKey(c.cfg.Dir, provisionerKeyFile); err != nil {
		return err
	}
	if err := c.checkEmbedded(ctx); err != nil {
		return err
	}
	x := &external{dir: dir, log: c.log, use: c.useRoots}
	if x.stepCA, err = newStepCA(e, c.cfg.Lifetime); err != nil {
		return err
	}
	if x.pinned, err = readRoots(e.RootFile); err != nil {
		return fmt.Errorf("root_file: %w", err)
	}
	x.server = own{file: "server.pem", host: c.cfg.Host}
	x.control = own{file: "control.pem"}
	if x.control.id, err = spiffeid.FromPath(td, "/"+wire.ControlService); err != nil {
		return err
	}
	c.external = x
	return x.start(ctx)
}

// checkEmbedded refuses to leave members behind that have certificates of the embedded CA: they trust its root alone.
func (c *CA) checkEmbedded(ctx context.Context) error {
	cert, err := readCert(c.cfg.Dir, intermediateCertFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	last, err := c.LastExpiry(ctx, []Issuer{{Intermediate: cert.Raw}})
	if err == nil && last.After(time.Now()) {
		err = fmt.Errorf("there are members with certificates of the embedded authority, the last until %s, who would trust nobody else: make a new mesh for the external CA",
			last.Format(time.RFC3339))
	}
	return err
}

// useRoots has members trust other roots.
func (c *CA) useRoots(roots []*x509.Certificate) {
	t := &trust{}
	for _, r := range roots {
		t.issuers = append(t.issuers, &issuer{root: r})
	}
	t.former = c.external.pinned // new members know them, whether they are handed out still or not
	t.server = t.issuers[0]
	if i := slices.IndexFunc(roots, func(r *x509.Certificate) bool { return slices.ContainsFunc(t.former, r.Equal) }); i >= 0 {
		t.server = t.issuers[i]
	}
	t.active = t.server
	c.trust.Store(t)
}

// ErrExternal is why roots can't be replaced here: they are the external CA's.
var ErrExternal = errors.New("the root is the external CA's: replace it there, and keep the old one among its roots until every member has fetched the new one, which takes up to two hours")

// External reports whether an external CA signs.
func (c *CA) External() bool { return c.external != nil }

// Issuers are the roots of an external CA, and the intermediate that signs now.
func (c *CA) Issuers() []Issuer {
	var all []Issuer
	for _, is := range c.trust.Load().issuers {
		i := Issuer{Root: is.root.Raw}
		o := &c.external.control
		if chain := o.cert.Load().chain; len(chain) > 1 && o.check(chain, []*x509.Certificate{is.root}) == nil {
			i.Intermediate = chain[1].Raw
		}
		all = append(all, i)
	}
	return all
}

// signExternal has the external CA sign what a one-time token of ours allows, once.
func (c *CA) signExternal(w http.ResponseWriter, r *http.Request, req *api.SignRequest, cl *claims) {
	csr := req.CsrPEM.CertificateRequest
	sum := sha256.Sum256(csr.Raw)
	bound := base64.RawURLEncoding.EncodeToString(sum[:])
	switch {
	case cl.Confirmation != nil && subtle.ConstantTimeCompare([]byte(cl.Confirmation.CSR), []byte(bound)) != 1:
		refuse(w, http.StatusUnauthorized, errors.New("the token is for another certificate request"))
		return
	case !req.NotAfter.IsZero():
		refuse(w, http.StatusBadRequest, errors.New("notAfter can't be asked for here"))
		return
	}
	if err := csr.CheckSignature(); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	if err := checkKey(csr.PublicKey); err != nil {
		refuse(w, http.StatusForbidden, err)
		return
	}
	first, err := c.db.UseToken(cl.ID, req.OTT)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, errors.New("the token can't be checked now"))
		return
	}
	if !first {
		refuse(w, http.StatusUnauthorized, errors.New("the token was used already"))
		return
	}
	c.certify(w, r, csr, cl.SANs[0])
}

// rekeyExternal is [api.Rekey] by the external CA; guard and rekey have checked the caller and the names.
func (c *CA) rekeyExternal(w http.ResponseWriter, r *http.Request) {
	var req api.RekeyRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	if err := req.CsrPEM.CheckSignature(); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	c.certify(w, r, req.CsrPEM.CertificateRequest, r.TLS.PeerCertificates[0].URIs[0].String())
}

// certify answers with a certificate for id, which is stored first, as those that can be revoked are.
func (c *CA) certify(w http.ResponseWriter, r *http.Request, csr *x509.CertificateRequest, id string) {
	name, err := spiffeid.FromString(id)
	if err != nil {
		refuse(w, http.StatusForbidden, err)
		return
	}
	chain, err := c.external.sign(r.Context(), *c.external.now.Load(), csr, id)
	if err == nil {
		err = c.checkExternal(chain, name)
	}
	if err == nil {
		err = (&db.DB{DB: records{c.cfg.DB}}).StoreCertificate(chain[0])
	}
	if err != nil {
		refuse(w, http.StatusBadGateway, err)
		return
	}
	answer := api.SignResponse{ServerPEM: api.NewCertificate(chain[0])}
	for _, cert := range chain {
		answer.CertChainPEM = append(answer.CertChainPEM, api.NewCertificate(cert))
	}
	if len(chain) > 1 {
		answer.CaPEM = answer.CertChainPEM[1]
	}
	api.LogCertificate(w, chain[0])
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(answer) // the client is gone: nobody to tell
}

// checkExternal makes sure that the external CA signed what was asked for: a template may add names.
func (c *CA) checkExternal(chain []*x509.Certificate, want spiffeid.ID) error {
	id, err := identity.Verify(chain, c.Bundle())
	if err == nil {
		err = enforcer{c.td}.Enforce(chain[0])
	}
	if err == nil && id != want {
		err = fmt.Errorf("it is for %s, not %s", id, want)
	}
	if err != nil {
		err = fmt.Errorf("the external CA answered with a certificate that is not let out (has its provisioner a template?): %w", err)
	}
	return err
}

// externalRoots answers as api.Roots does.
func (c *CA) externalRoots(w http.ResponseWriter, _ *http.Request) {
	var answer api.RootsResponse
	for _, root := range c.trust.Load().roots() {
		answer.Certificates = append(answer.Certificates, api.NewCertificate(root))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(answer) // the client is gone: nobody to tell
}

func noRenewal(w http.ResponseWriter, _ *http.Request) {
	refuse(w, http.StatusNotImplemented, errors.New("with an external CA a certificate is renewed with a new key alone: use rekey"))
}

// RevokeOutside tells the external CA, if there is one, of certificates that were revoked here: those with the serial numbers,
// and all of service that have not expired, unless it is "". What it did not hear of it goes on to renew for whoever reaches it
// directly, unless its provisioner has renewal disabled; here nothing depends on it.
func (c *CA) RevokeOutside(ctx context.Context, service string, serials []*big.Int) error {
	if c.external == nil {
		return nil
	}
	if service != "" {
		id, err := spiffeid.FromPath(c.td, "/"+service)
		if err != nil {
			return fmt.Errorf("ca: %w", err)
		}
		for r, err := range c.cfg.DB.All(ctx, store.KindCA+"x509_certs") {
			if err != nil {
				return fmt.Errorf("ca: %w", err)
			}
			cert, err := x509.ParseCertificate(r.Value)
			if err == nil && len(cert.URIs) == 1 && cert.URIs[0].String() == id.String() && time.Now().Before(cert.NotAfter) {
				serials = append(serials, cert.SerialNumber)
			}
		}
	}
	for i, n := range serials {
		if err := c.external.revoke(ctx, *c.external.now.Load(), n); err != nil {
			return fmt.Errorf("ca: revoked in the mesh, where it is in force, but the external CA was not told of %d certificates (revoke again to try again): %w", len(serials)-i, err)
		}
	}
	return nil
}

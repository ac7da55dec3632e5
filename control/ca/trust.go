package ca

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/go-chi/chi/v5"
	"github.com/intramesh/mesh/control/store"
	"github.com/smallstep/certificates/authority"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// An Issuer is a root, and the intermediate below it that signs, as they are stored: certificates in DER, the key sealed.
type Issuer struct {
	Root         []byte `json:"root"`
	Intermediate []byte `json:"intermediate"`
	// Cross is the intermediate as the root before has signed it, so that who knows that one alone still finds the
	// server's certificate good. It is empty when that root's key was not at hand.
	Cross []byte `json:"cross,omitempty"`
	// Key is the intermediate's, in PKCS #8, or KeyURI says in which KMS it is; both are empty for the one in the CA's
	// directory.
	Key    []byte `json:"key,omitempty"`
	KeyURI []byte `json:"key_uri,omitempty"`
}

// Authorities are what the CA works with; replicas share them.
type Authorities struct {
	// Trusted are the issuers whose roots members trust, the oldest first. The last one is the newest.
	Trusted []Issuer `json:"trusted"`
	// Active is the index of the one that signs.
	Active int `json:"active"`
	// Former are roots that nobody need trust any more, and that what was made before still names.
	Former [][]byte `json:"former,omitempty"`
}

// AuthoritiesKind is the kind of record that Authorities are sealed for.
const AuthoritiesKind = store.KindCA + "authorities"

// issuer is an Issuer at work.
type issuer struct {
	root, intermediate *x509.Certificate
	cross              *x509.Certificate // may be nil
	signer             crypto.Signer
}

// trust is what the CA works with at one time. It is replaced whole.
type trust struct {
	issuers []*issuer
	active  *issuer             // signs members' certificates and the control plane's
	server  *issuer             // signs the HTTPS server's certificate
	former  []*x509.Certificate // roots
	auth    *authority.Authority
}

func (t *trust) roots() []*x509.Certificate {
	all := make([]*x509.Certificate, len(t.issuers))
	for i, is := range t.issuers {
		all[i] = is.root
	}
	return all
}

// Use has the CA work with other authorities; nil means those in its directory alone. Requests under way end with those
// from before.
func (c *CA) Use(a *Authorities) error {
	t, err := c.newTrust(a)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	if t.auth, err = c.newAuthority(t); err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	c.trust.Store(t)
	return nil
}

func (c *CA) newTrust(a *Authorities) (*trust, error) {
	first := &issuer{root: c.keys.root, intermediate: c.keys.intermediate, signer: c.keys.signer}
	if a == nil {
		return &trust{issuers: []*issuer{first}, active: first, server: first}, nil
	}
	t := &trust{}
	for _, stored := range a.Trusted {
		is, err := c.load(stored)
		if err != nil {
			return nil, err
		}
		t.issuers = append(t.issuers, is)
	}
	if a.Active < 0 || a.Active >= len(t.issuers) {
		return nil, fmt.Errorf("authority %d of %d is to sign", a.Active, len(t.issuers))
	}
	t.active = t.issuers[a.Active]
	// Whoever has heard of the first root alone must be able to verify the server.
	t.server = t.active
	if t.active.cross == nil {
		t.server = t.issuers[0]
	}
	for _, der := range a.Former {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		t.former = append(t.former, root)
	}
	return t, nil
}

// load parses an issuer and unseals its key.
func (c *CA) load(s Issuer) (is *issuer, err error) {
	is = &issuer{}
	if is.root, err = x509.ParseCertificate(s.Root); err != nil {
		return nil, err
	}
	if is.intermediate, err = x509.ParseCertificate(s.Intermediate); err != nil {
		return nil, err
	}
	if len(s.Cross) > 0 {
		if is.cross, err = x509.ParseCertificate(s.Cross); err != nil {
			return nil, err
		}
	}
	if len(s.KeyURI) > 0 {
		uri, err := store.Unseal(c.cfg.SealKey, AuthoritiesKind, Fingerprint(is.intermediate), s.KeyURI)
		if err != nil {
			return nil, err
		}
		if is.signer, err = c.kms.openKey(string(uri)); err != nil {
			return nil, err
		}
		return is, checkIssuer(is, c.td)
	}
	if len(s.Key) == 0 {
		if !is.intermediate.Equal(c.keys.intermediate) {
			return nil, fmt.Errorf("%s is not the certificate that the mesh uses, and its key is not in the store: copy the directory from another replica", intermediateCertFile)
		}
		is.signer = c.keys.signer
		return is, nil
	}
	der, err := store.Unseal(c.cfg.SealKey, AuthoritiesKind, Fingerprint(is.intermediate), s.Key)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the intermediate's key can't sign")
	}
	is.signer = signer
	return is, checkIssuer(is, c.td)
}

// checkIssuer makes sure that the three belong together, and that the intermediate is held to the trust domain.
func checkIssuer(is *issuer, td spiffeid.TrustDomain) error {
	if pub, ok := is.signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(is.intermediate.PublicKey) {
		return errors.New("the key does not belong to the intermediate certificate")
	}
	if err := is.intermediate.CheckSignatureFrom(is.root); err != nil {
		return fmt.Errorf("the intermediate certificate is not signed by the root: %w", err)
	}
	if !slices.Equal(is.intermediate.PermittedURIDomains, []string{td.Name()}) {
		return fmt.Errorf("the intermediate certificate is not constrained to URIs of %s alone", td.Name())
	}
	return nil
}

// Fingerprint is the SHA-256 of a certificate, in hex.
func Fingerprint(c *x509.Certificate) string { return fingerprintOf(c.Raw) }

func fingerprintOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Fingerprint is that of the root by which a new process knows the CA.
func (c *CA) Fingerprint() string { return Fingerprint(c.trust.Load().server.root) }

// Bundle returns the roots that members trust.
func (c *CA) Bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(c.td, c.trust.Load().roots())
}

// root answers as api.Root does, for former roots and those of an external CA too.
func (c *CA) root(w http.ResponseWriter, r *http.Request) {
	t := c.trust.Load()
	for _, root := range append(t.roots(), t.former...) {
		if Fingerprint(root) == chi.URLParam(r, "sha") {
			w.Header().Set("Content-Type", "application/json")
			text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
			_ = json.NewEncoder(w).Encode(map[string]string{"ca": text}) // the client is gone: nobody to tell
			return
		}
	}
	refuse(w, http.StatusNotFound, errors.New("no root of this CA has this fingerprint"))
}

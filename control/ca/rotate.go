package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/intramesh/mesh/control/store"
)

// Current returns what the CA works with, as it is before the first rotation.
func (c *CA) Current() *Authorities {
	return &Authorities{Trusted: []Issuer{{Root: c.keys.root.Raw, Intermediate: c.keys.intermediate.Raw}}}
}

// NewIssuer makes a new root and intermediate. The root's key is written to root-NAME.key in the CA's directory, NAME being
// the start of its fingerprint: it is not needed to run. When the key of the present root is in the directory, it signs
// the new intermediate too.
func (c *CA) NewIssuer() (Issuer, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Issuer{}, fmt.Errorf("ca: %w", err)
	}
	root := authorityTemplate(c.td, "root")
	root.MaxPathLen = 1
	if root, err = sign(root, root, rootKey.Public(), rootKey); err != nil {
		return Issuer{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Issuer{}, fmt.Errorf("ca: %w", err)
	}
	intermediate, err := sign(intermediateTemplate(c.td), root, key.Public(), rootKey)
	if err != nil {
		return Issuer{}, err
	}
	if err := saveKey(filepath.Join(c.cfg.Dir, rootKeyName(root)), rootKey); err != nil {
		return Issuer{}, err
	}
	return c.seal(&issuer{root: root, intermediate: intermediate, signer: key}, key)
}

func rootKeyName(root *x509.Certificate) string { return "root-" + Fingerprint(root)[:16] + ".key" }

// seal makes an issuer fit for the store.
func (c *CA) seal(is *issuer, key crypto.PrivateKey) (Issuer, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Issuer{}, fmt.Errorf("ca: %w", err)
	}
	out := Issuer{Root: is.root.Raw, Intermediate: is.intermediate.Raw}
	if out.Key, err = store.Seal(c.cfg.SealKey, AuthoritiesKind, Fingerprint(is.intermediate), der); err != nil {
		return Issuer{}, fmt.Errorf("ca: %w", err)
	}
	return out, c.addCross(&out, is)
}

func (c *CA) addCross(out *Issuer, is *issuer) error {
	cross, err := c.crossSign(is)
	if cross != nil {
		out.Cross = cross.Raw
	}
	return err
}

// crossSign has the present root sign a new intermediate, nil when its key is not here.
func (c *CA) crossSign(is *issuer) (*x509.Certificate, error) {
	old := c.trust.Load().active.root
	name := rootKeyName(old)
	if old.Equal(c.keys.root) {
		name = rootKeyFile
	}
	key, err := readKey(c.cfg.Dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if pub, ok := key.Public().(*ecdsa.PublicKey); !ok || !pub.Equal(old.PublicKey) {
		return nil, fmt.Errorf("ca: %s is not the key of the present root", name)
	}
	t := intermediateTemplate(c.td)
	t.Subject = is.intermediate.Subject
	if old.NotAfter.Before(t.NotAfter) {
		t.NotAfter = old.NotAfter
	}
	return sign(t, old, is.signer.Public(), key)
}

// ForgetRootKey removes what [CA.NewIssuer] wrote for an issuer that is not used after all.
func (c *CA) ForgetRootKey(is Issuer) error {
	root, err := x509.ParseCertificate(is.Root)
	if err == nil {
		err = os.Remove(filepath.Join(c.cfg.Dir, rootKeyName(root)))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ca: %w", err)
	}
	return nil
}

// Import takes an intermediate that was made elsewhere.
func (c *CA) Import(b Brought) (Issuer, error) {
	is, err := b.parse(c.td, &c.kms)
	if err != nil {
		return Issuer{}, err
	}
	if b.KeyURI == "" {
		return c.seal(is, is.signer)
	}
	out := Issuer{Root: is.root.Raw, Intermediate: is.intermediate.Raw}
	if out.KeyURI, err = store.Seal(c.cfg.SealKey, AuthoritiesKind, Fingerprint(is.intermediate), []byte(b.KeyURI)); err != nil {
		return Issuer{}, fmt.Errorf("ca: %w", err)
	}
	return out, c.addCross(&out, is)
}

// Fingerprints are those of the root and the intermediate, "" for one that there isn't.
func (i Issuer) Fingerprints() (root, intermediate string) {
	if len(i.Intermediate) > 0 {
		intermediate = fingerprintOf(i.Intermediate)
	}
	return fingerprintOf(i.Root), intermediate
}

// Expires is when the first of the two does.
func (i Issuer) Expires() (first time.Time) {
	for _, der := range [][]byte{i.Root, i.Intermediate} {
		if c, err := x509.ParseCertificate(der); err == nil && (first.IsZero() || c.NotAfter.Before(first)) {
			first = c.NotAfter
		}
	}
	return first
}

// Names of an issuer, by its certificates' fingerprints.
type Names struct{ Root, Intermediate string }

// Newest is the one added last.
func (a *Authorities) Newest() (n Names, err error) {
	if len(a.Trusted) == 0 {
		return n, errors.New("ca: there is no authority")
	}
	n.Root, n.Intermediate = a.Trusted[len(a.Trusted)-1].Fingerprints()
	return n, nil
}

// Has reports whether an issuer is among those trusted.
func (a *Authorities) Has(i Issuer) bool {
	return slices.ContainsFunc(a.Trusted, func(t Issuer) bool { return bytes.Equal(t.Intermediate, i.Intermediate) })
}

// LastExpiry is when the last certificate by these issuers has expired, as far as the CA knows of them.
func (c *CA) LastExpiry(ctx context.Context, by []Issuer) (last time.Time, err error) {
	last = time.Now().UTC()
	ids := make(map[string]bool)
	for _, i := range by {
		cert, err := x509.ParseCertificate(i.Intermediate)
		if err != nil {
			return last, fmt.Errorf("ca: %w", err)
		}
		ids[string(cert.SubjectKeyId)] = true
	}
	for r, err := range c.cfg.DB.All(ctx, store.KindCA+"x509_certs") {
		if err != nil {
			return last, fmt.Errorf("ca: %w", err)
		}
		if cert, err := x509.ParseCertificate(r.Value); err == nil && ids[string(cert.AuthorityKeyId)] && cert.NotAfter.After(last) {
			last = cert.NotAfter.UTC()
		}
	}
	return last, nil
}

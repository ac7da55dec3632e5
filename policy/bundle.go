package policy

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/intramesh/mesh/internal/wire"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A Bundle is all the rules of a mesh at one version. It travels signed; the signature, not
// who hands it over, is what is trusted.
type Bundle struct {
	// TrustDomain is the mesh that the rules are for.
	TrustDomain spiffeid.TrustDomain
	// Version only grows: a member takes no bundle older than the one it has.
	Version uint64
	// Issued is when the bundle was signed.
	Issued time.Time
	// Documents are the rules, each with a name of its own.
	Documents []Document
	// Revoked are certificates that are no longer to be trusted, at most [MaxRevocations]. A member that is too old to
	// know of revocations refuses a bundle that has any.
	Revoked []Revocation
	// Authorities, if not nil, tells members what the certificate authority hands out.
	Authorities *Authorities
}

// Authorities tell members which roots the certificate authority hands out and which certificate it signs with, so that
// they need not find out by and by. They trust nothing for it: the certificates themselves come from the authority.
type Authorities struct {
	// Roots and Issuer are SHA-256 of certificates, in hex.
	Roots  []string `json:"roots"`
	Issuer string   `json:"issuer"`
}

// payload is a bundle's JSON: what is signed.
type payload struct {
	TrustDomain string       `json:"trustDomain"`
	Version     uint64       `json:"version"`
	Issued      time.Time    `json:"issued"`
	Documents   []Document   `json:"documents"`
	Revoked     []Revocation `json:"revoked,omitempty"`
	Authorities *Authorities `json:"authorities,omitempty"`
}

// parsedPayload is the same on the way in, where documents are decoded one by one.
type parsedPayload struct {
	TrustDomain string      `json:"trustDomain"`
	Version     uint64      `json:"version"`
	Issued      string      `json:"issued"`
	Documents   []*Node     `json:"documents"`
	Revoked     []*Node     `json:"revoked"`
	Authorities Authorities `json:"authorities"`
}

// A signed bundle is one line, "mesh-bundle/1 KEYID SIGNATURE", and then the payload, which is
// JSON. The signature is Ed25519ctx (RFC 8032, section 5.1) over the exact bytes of the payload.
const (
	bundleMagic   = "mesh-bundle/1"
	bundleContext = "intramesh policy bundle v1"
	maxHeader     = 256
)

// ErrNotVerified is inside the error of [Open] when a bundle has no valid signature by
// one of the keys.
var ErrNotVerified = errors.New("not signed by a key that is trusted here")

// KeyID names a key that signs bundles: the first 8 bytes of its SHA-256, in hex.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// Sign returns the bundle in the form that members accept. It opens what it made: what it
// returns, every member of the same version takes. Its error is a [*ParseError] when a document is not valid.
func Sign(b *Bundle, key ed25519.PrivateKey) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("policy: sign bundle: not an Ed25519 private key")
	}
	if b.Version == 0 {
		return nil, errors.New("policy: sign bundle: versions start at 1")
	}
	if _, err := Compile(b); err != nil {
		return nil, err
	}
	p := payload{b.TrustDomain.Name(), b.Version, b.Issued.UTC(), b.Documents, b.Revoked, b.Authorities}
	if p.Documents == nil {
		p.Documents = []Document{}
	}
	body, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("policy: sign bundle: %w", err)
	}
	sig, err := key.Sign(nil, body, &ed25519.Options{Context: bundleContext})
	if err != nil {
		return nil, fmt.Errorf("policy: sign bundle: %w", err)
	}
	public, _ := key.Public().(ed25519.PublicKey)
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s %s\n", bundleMagic, KeyID(public), base64.StdEncoding.EncodeToString(sig))
	out.Write(body)
	if _, err := Open(out.Bytes(), []ed25519.PublicKey{public}, b.TrustDomain); err != nil {
		return nil, fmt.Errorf("policy: sign bundle: members would refuse it: %w", err)
	}
	return out.Bytes(), nil
}

// Open verifies a signed bundle and reads it. Nothing of it is looked at before its signature
// holds. A bundle for another trust domain is refused, and one that has anything this
// version does not know: a rule that is not understood can't be enforced.
func Open(data []byte, keys []ed25519.PublicKey, trustDomain spiffeid.TrustDomain) (*Bundle, error) {
	body, err := verify(data, keys)
	if err != nil {
		return nil, fmt.Errorf("policy: open bundle: %w", err)
	}
	b, err := readPayload(body)
	if err != nil {
		return nil, fmt.Errorf("policy: open bundle: %w", err)
	}
	if b.TrustDomain != trustDomain {
		return nil, fmt.Errorf("policy: open bundle: it is for the trust domain %q, not %q", b.TrustDomain.Name(), trustDomain.Name())
	}
	return b, nil
}

// verify returns the payload of a signed bundle.
func verify(data []byte, keys []ed25519.PublicKey) ([]byte, error) {
	if len(data) > wire.MaxBundleBytes {
		return nil, fmt.Errorf("larger than %d bytes", wire.MaxBundleBytes)
	}
	head, body, ok := cutPayload(data)
	if !ok {
		return nil, errors.New("not a signed bundle")
	}
	parts := strings.Split(head, " ")
	if len(parts) != 3 || parts[0] != bundleMagic {
		return nil, fmt.Errorf("not a bundle of the form %q", bundleMagic)
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(sig) != ed25519.SignatureSize {
		return nil, errors.New("the signature is damaged")
	}
	for _, key := range keys {
		if len(key) != ed25519.PublicKeySize || KeyID(key) != parts[1] {
			continue
		}
		if ed25519.VerifyWithOptions(key, body, sig, &ed25519.Options{Hash: crypto.Hash(0), Context: bundleContext}) == nil {
			return body, nil
		}
		return nil, fmt.Errorf("the signature by key %s does not hold: %w", parts[1], ErrNotVerified)
	}
	return nil, fmt.Errorf("the key %s is unknown: %w", clip(printable(parts[1]), 2*16), ErrNotVerified)
}

func cutPayload(data []byte) (head string, body []byte, ok bool) {
	i := bytes.IndexByte(data[:min(len(data), maxHeader)], '\n')
	if i < 0 {
		return "", nil, false
	}
	return string(data[:i]), data[i+1:], true
}

func readPayload(body []byte) (*Bundle, error) {
	nodes, err := readJSON("", body)
	if err != nil {
		return nil, err
	}
	if len(nodes) != 1 {
		return nil, fmt.Errorf("%d JSON values, want one", len(nodes))
	}
	ps := &problems{}
	d := decoder{problems: ps, fields: make(map[reflect.Type][]string)}
	var p parsedPayload
	d.decode(nodes[0], reflect.ValueOf(&p).Elem(), nil)
	b := &Bundle{Version: p.Version}
	if len(ps.list) == 0 {
		b.Documents = decodeDocuments(ps, p.Documents, "documents")
		b.Revoked = decodeRevocations(&d, p.Revoked)
		if len(p.Authorities.Roots) > 0 {
			b.Authorities = &p.Authorities
		}
	}
	if err := ps.err(); err != nil {
		return nil, err
	}
	if b.TrustDomain, err = spiffeid.TrustDomainFromString(p.TrustDomain); err != nil {
		return nil, err
	}
	if b.Issued, err = time.Parse(time.RFC3339, p.Issued); err != nil {
		return nil, fmt.Errorf("issued: %w", err)
	}
	if b.Version == 0 {
		return nil, errors.New("version is missing")
	}
	return b, nil
}

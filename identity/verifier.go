package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"sync"
	"time"
	"weak"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxVerified bounds how many chains a [Verifier] remembers, some 200 bytes each.
const maxVerified = 4096

// maxIssuers bounds how many intermediate certificates a [Verifier] keeps, some 3 KiB each.
const maxIssuers = 8

// A Verifier does what [Verify] does, and remembers the chains that passed: verifying one with an intermediate
// takes hundreds of microseconds of elliptic curves, and the same few peers connect again and again. What it remembers holds
// for exactly the chain that was shown, exactly the authorities that were trusted then, and for no longer than every
// certificate of a path to them is valid. It is safe for concurrent use.
type Verifier struct {
	bundles x509bundle.Source

	mu    sync.Mutex
	known map[[sha256.Size]byte]verdict
	// issuers are intermediate certificates of chains that passed, the latest ones; nissuers is how many there were ever.
	issuers  [maxIssuers]*x509.Certificate
	nissuers int
}

type verdict struct {
	id          spiffeid.ID
	authorities []*x509.Certificate // the whole bundle
	until       time.Time
	from, to    time.Time
	leaf        weak.Pointer[x509.Certificate] // as [Verifier.Share] last saw it
}

// NewVerifier returns a Verifier that trusts the bundles of a source.
func NewVerifier(bundles x509bundle.Source) *Verifier {
	return &Verifier{bundles: bundles, known: make(map[[sha256.Size]byte]verdict)}
}

// Verify returns whose certificate a peer showed; see the function [Verify].
func (v *Verifier) Verify(chain []*x509.Certificate) (spiffeid.ID, error) {
	id, _, err := v.VerifyUntil(chain)
	return id, err
}

// VerifyUntil is Verify, and until when it holds as long as the authorities are those of now: when the first certificate on
// the way from the leaf to one of them expires, the authority's own included; of several ways, on the longest-lived.
func (v *Verifier) VerifyUntil(chain []*x509.Certificate) (id spiffeid.ID, until time.Time, err error) {
	if len(chain) == 0 || checkSize(chain) != nil {
		return verifyUntil(chain, v.bundles) // it finds the words
	}
	key := digest(chain)
	v.mu.Lock()
	k, ok := v.known[key]
	v.mu.Unlock()
	if ok && v.holds(k) {
		return k.id, k.until, nil
	}
	claimed, err := uriSAN(chain[0])
	if err != nil {
		return verifyUntil(chain, v.bundles)
	}
	b, err := strictSource{v.bundles}.GetX509BundleForTrustDomain(claimed.TrustDomain())
	if err != nil {
		return verifyUntil(chain, v.bundles)
	}
	// A copy, since the bundle may change meanwhile: what is remembered is what was verified.
	authorities := b.X509Authorities()
	id, until, err = verifyUntil(chain, x509bundle.FromX509Authorities(claimed.TrustDomain(), authorities))
	if err == nil {
		v.remember(key, verdict{id: id, until: until, authorities: authorities}, chain)
	}
	return id, until, err
}

// Share replaces the certificates of a chain that has just passed by those, byte for byte the same, of an earlier one. Connections
// of one peer then hold its certificate once, as long as one of them does, and all connections the intermediate: 6 KiB less for each connection of a
// crypto/tls server, which parses what it is shown anew each time.
func (v *Verifier) Share(chain []*x509.Certificate) {
	key := digest(chain)
	v.mu.Lock()
	defer v.mu.Unlock()
	k, ok := v.known[key]
	if !ok {
		return
	}
	if leaf := k.leaf.Value(); leaf != nil {
		chain[0] = leaf
	} else {
		k.leaf = weak.Make(chain[0])
		v.known[key] = k
	}
	for i, c := range chain[1:] {
		at := slices.IndexFunc(v.issuers[:], c.Equal)
		if at < 0 {
			at = v.nissuers % maxIssuers
			v.issuers[at] = c
			v.nissuers++
		}
		chain[1+i] = v.issuers[at]
	}
}

// holds reports whether a chain that passed would pass now.
func (v *Verifier) holds(k verdict) bool {
	now := time.Now()
	if now.Before(k.from) || now.After(k.to) {
		return false
	}
	b, err := strictSource{v.bundles}.GetX509BundleForTrustDomain(k.id.TrustDomain())
	return err == nil && slices.Equal(b.X509Authorities(), k.authorities)
}

func (v *Verifier) remember(key [sha256.Size]byte, k verdict, chain []*x509.Certificate) {
	k.from, k.to = chain[0].NotBefore, chain[0].NotAfter
	// The path to an authority may be any through these: the narrowest of all times is safe.
	for _, c := range slices.Concat(chain, k.authorities) {
		if c.NotBefore.After(k.from) {
			k.from = c.NotBefore
		}
		if c.NotAfter.Before(k.to) {
			k.to = c.NotAfter
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxVerified {
		for old := range v.known { // any: honest peers fill it slowly, and nobody else can
			delete(v.known, old)
			break
		}
	}
	v.known[key] = k
}

// digest identifies a chain by every byte of it.
func digest(chain []*x509.Certificate) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, c := range chain {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(c.Raw))) //nolint:gosec // checkSize bounds it
		h.Write(n[:])
		h.Write(c.Raw)
	}
	return [sha256.Size]byte(h.Sum(sum[:0]))
}

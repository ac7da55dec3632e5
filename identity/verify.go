package identity

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	maxChain      = 8
	maxChainBytes = 64 << 10
	maxIDBytes    = 2048 // SPIFFE-ID specification, section 2.3
	maxTDBytes    = 255
)

// A VerifyError says why the certificate that a peer showed was not accepted. errors.As
// finds the x509 error inside, such as x509.UnknownAuthorityError or
// x509.CertificateInvalidError, when the chain was at fault.
type VerifyError struct {
	// ID is what the certificate claims, and nobody vouches for. It is zero when the
	// certificate holds no acceptable SPIFFE ID.
	ID spiffeid.ID
	// Serial is the leaf's serial number in hex, empty when there was no certificate.
	Serial string
	// Err is the reason.
	Err error
}

// Error names the claimed ID, the serial number and the reason.
func (e *VerifyError) Error() string {
	switch {
	case e.Serial == "":
		return "identity: " + e.Err.Error()
	case e.ID.IsZero():
		return fmt.Sprintf("identity: certificate %s: %v", e.Serial, e.Err)
	}
	return fmt.Sprintf("identity: certificate %s of %s: %v", e.Serial, e.ID, e.Err)
}

// Unwrap returns Err.
func (e *VerifyError) Unwrap() error { return e.Err }

// Verify returns whose certificate a peer showed: chain is the leaf and then its
// intermediates, as in tls.ConnectionState.PeerCertificates. Only the bundle of the ID's own
// trust domain is consulted, at the time that time.Now tells. Every error is a *VerifyError.
//
// It is stricter than x509svid.Verify, which it calls: the ID is read as it is spelled
// in the certificate (no URL parser in between, which would let "SPIFFE://" or a trailing "#"
// pass), it has a path, and the key usages are those of the X.509-SVID specification, sections
// 4.3 and 4.4, along the whole chain. A chain has at most 8 certificates and 64 KiB.
//
// Call it in tls.Config.VerifyConnection: VerifyPeerCertificate is skipped when a session is
// resumed.
func Verify(chain []*x509.Certificate, bundles x509bundle.Source) (spiffeid.ID, error) {
	id, _, err := verifyUntil(chain, bundles)
	return id, err
}

// verifyUntil is Verify, and when what was verified ends, the authority's own certificate included.
func verifyUntil(chain []*x509.Certificate, bundles x509bundle.Source) (id spiffeid.ID, until time.Time, err error) {
	if len(chain) == 0 {
		return id, until, &VerifyError{Err: errors.New("the peer showed no certificate")}
	}
	claimed, until, err := verify(chain, bundles)
	if err != nil {
		return id, time.Time{}, &VerifyError{ID: claimed, Serial: serial(chain[0]), Err: err}
	}
	return claimed, until, nil
}

func verify(chain []*x509.Certificate, bundles x509bundle.Source) (claimed spiffeid.ID, until time.Time, err error) {
	if err := checkSize(chain); err != nil {
		return claimed, until, err
	}
	leaf := chain[0]
	if claimed, err = uriSAN(leaf); err != nil {
		return claimed, until, err
	}
	switch {
	case claimed.Path() == "":
		return claimed, until, errors.New("the SPIFFE ID has no path: it names a trust domain, not a service")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return claimed, until, errors.New("key usage digitalSignature is missing")
	}
	id, verified, err := x509svid.Verify(chain, strictSource{bundles})
	if err != nil {
		return claimed, until, err
	}
	if id != claimed {
		return claimed, until, fmt.Errorf("the certificate can be read as %s too", id)
	}
	for _, path := range verified {
		if end := expiry(path); fitsTLS(path) && end.After(until) {
			until = end
		}
	}
	if until.IsZero() {
		return claimed, until, errors.New("extended key usage does not allow both serverAuth and clientAuth")
	}
	return claimed, until, nil
}

func checkSize(chain []*x509.Certificate) error {
	if len(chain) > maxChain {
		return fmt.Errorf("chain of %d certificates is longer than %d", len(chain), maxChain)
	}
	size := 0
	for _, c := range chain {
		size += len(c.Raw)
	}
	if size > maxChainBytes {
		return fmt.Errorf("chain of %d bytes is larger than %d", size, maxChainBytes)
	}
	return nil
}

// uriSAN returns the ID in the certificate's only URI SAN, byte for byte as it stands there.
func uriSAN(c *x509.Certificate) (spiffeid.ID, error) {
	const uriTag = 6 // GeneralName's uniformResourceIdentifier, RFC 5280 section 4.2.1.6
	var uris []string
	for _, ext := range c.Extensions {
		if !ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &names); err != nil || len(rest) != 0 {
			return spiffeid.ID{}, errors.New("the subject alternative names are malformed")
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == uriTag {
				uris = append(uris, string(n.Bytes))
			}
		}
	}
	if len(uris) != 1 {
		return spiffeid.ID{}, fmt.Errorf("%d URI SANs where an SVID has exactly one", len(uris))
	}
	if len(uris[0]) > maxIDBytes {
		return spiffeid.ID{}, fmt.Errorf("SPIFFE ID of %d bytes is longer than %d", len(uris[0]), maxIDBytes)
	}
	id, err := spiffeid.FromString(uris[0])
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("URI SAN %q is not a SPIFFE ID: %w", uris[0], err)
	}
	if len(id.TrustDomain().Name()) > maxTDBytes {
		return spiffeid.ID{}, fmt.Errorf("trust domain is longer than %d bytes", maxTDBytes)
	}
	return id, nil
}

// fitsTLS reports whether each certificate of a chain may be used for both ends of TLS;
// one without the extension may be used for anything.
func fitsTLS(chain []*x509.Certificate) bool {
	for _, c := range chain {
		if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
			continue
		}
		if !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
			return false
		}
	}
	return true
}

// strictSource makes sure that the bundle is there and is of the trust domain that was asked for.
type strictSource struct{ x509bundle.Source }

func (s strictSource) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if s.Source == nil {
		return nil, errors.New("there are no trust bundles")
	}
	b, err := s.Source.GetX509BundleForTrustDomain(td)
	if err != nil {
		return nil, err
	}
	if b == nil || b.TrustDomain() != td {
		return nil, fmt.Errorf("no bundle of trust domain %s", td)
	}
	return b, nil
}

func serial(c *x509.Certificate) string {
	if c.SerialNumber == nil {
		return "without serial number"
	}
	return c.SerialNumber.Text(16)
}

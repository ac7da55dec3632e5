package identity

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"strings"
)

// newKey makes a key of P-256. (ecdsa.GenerateKey would bring the other curves: 9 KB of every program.)
func newKey() (*ecdsa.PrivateKey, error) {
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ecdsa.ParseRawPrivateKey(elliptic.P256(), k.Bytes())
}

// What a request of ours has beside the key and the name, in DER.
const (
	version0   = "\x02\x01\x00"
	p256       = "\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07" // id-ecPublicKey, prime256v1
	withSHA256 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"                                     // ecdsa-with-SHA256
	extensions = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e"                                         // extensionRequest
	altName    = "\x06\x03\x55\x1d\x11"                                                                 // subjectAltName
)

// signRequest returns a certificate request (RFC 2986) in DER for the key and a URI, its only name. (x509.CreateCertificateRequest and what
// it takes would be 20 KB of every program.)
func signRequest(key *ecdsa.PrivateKey, uri string) ([]byte, error) {
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	names := der(0x30, der(0x86, uri)) // GeneralNames
	info := der(0x30, version0, der(0x30), der(0x30, p256, der(0x03, "\x00", string(point))),
		der(0xa0, der(0x30, extensions, der(0x31, der(0x30, der(0x30, altName, der(0x04, names)))))))
	sum := sha256.Sum256([]byte(info))
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return []byte(der(0x30, info, withSHA256, der(0x03, "\x00", string(sig)))), nil
}

// marshalKey returns a key of P-256 as PKCS #8 (RFC 5958, RFC 5915) in DER. (x509.MarshalPKCS8PrivateKey would be 10 KB of every program.)
func marshalKey(key *ecdsa.PrivateKey) ([]byte, error) {
	secret, err := key.Bytes()
	if err == nil && key.Curve != elliptic.P256() {
		err = errors.New("a key of another curve can't be kept")
	}
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	inner := der(0x30, "\x02\x01\x01", der(0x04, string(secret)), der(0xa1, der(0x03, "\x00", string(point))))
	return []byte(der(0x30, version0, p256, der(0x04, inner))), nil
}

// der returns a value of less than 64 KiB with its tag (X.690, section 8.1).
func der(tag byte, parts ...string) string {
	value := strings.Join(parts, "")
	head := []byte{tag}
	switch n := len(value); {
	case n < 0x80:
		head = append(head, byte(n))
	case n < 0x100:
		head = append(head, 0x81, byte(n))
	default:
		head = append(head, 0x82, byte(n>>8), byte(n)) //nolint:gosec // less than 64 KiB
	}
	return string(head) + value
}

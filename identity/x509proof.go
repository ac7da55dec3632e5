package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"time"

	"github.com/intramesh/mesh/internal/wire"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// X509Proof proves with a certificate of another authority that the control plane has been told of, and its key: PEM
// files that are read at each use. id is whom to enrol as. The key is ECDSA, Ed25519 or RSA of at least 2048
// bits.
func X509Proof(certFile, keyFile string, id spiffeid.ID) Prover {
	return func(_ context.Context, csr [sha256.Size]byte) (Proof, error) {
		certs, err := os.ReadFile(certFile)
		if err != nil {
			return Proof{}, fmt.Errorf("the certificate to enrol with: %w", err)
		}
		key, err := os.ReadFile(keyFile)
		if err != nil {
			return Proof{}, fmt.Errorf("the certificate to enrol with: %w", err)
		}
		parsed, signer, err := parsePair(certs, key)
		if err != nil {
			return Proof{}, fmt.Errorf("the certificate to enrol with: %w", err)
		}
		chain := make([][]byte, len(parsed))
		for i, c := range parsed {
			chain[i] = c.Raw
		}
		now := time.Now()
		token, err := signJWT(signer, chain, map[string]any{
			"aud": wire.EnrolAudience(id.TrustDomain().Name()), "sub": ServiceName(id),
			"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": rand.Text(),
			"cnf": map[string]string{"x5rt#S256": base64.RawURLEncoding.EncodeToString(csr[:])},
		})
		if err != nil {
			return Proof{}, fmt.Errorf("the certificate to enrol with: %w", err)
		}
		return Proof{wire.ProofX509, token}, nil
	}
}

// signJWT makes a JSON Web Token whose header carries the chain (RFC 7515 section 4.1.6).
func signJWT(key crypto.Signer, chain [][]byte, claims map[string]any) (string, error) {
	alg, hash := "", crypto.SHA256
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			alg = "ES256"
		case elliptic.P384():
			alg, hash = "ES384", crypto.SHA384
		case elliptic.P521():
			alg, hash = "ES512", crypto.SHA512
		}
	case *rsa.PublicKey:
		alg = "RS256"
	case ed25519.PublicKey:
		alg, hash = "EdDSA", 0
	}
	if alg == "" {
		return "", fmt.Errorf("a key of type %T can't sign tokens", key.Public())
	}
	head, err := json.Marshal(map[string]any{"alg": alg, "typ": "JWT", "x5c": chain}) // [][]byte is base64, as it should be
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := []byte(text)
	if hash != 0 {
		h := hash.New()
		h.Write(digest)
		digest = h.Sum(nil)
	}
	sig, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		return "", err
	}
	if k, ok := key.Public().(*ecdsa.PublicKey); ok {
		if sig, err = rawECDSA(sig, (k.Curve.Params().BitSize+7)/8); err != nil {
			return "", err
		}
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

// rawECDSA turns an ASN.1 signature into the two numbers side by side that RFC 7518 section 3.4 wants.
func rawECDSA(sig []byte, size int) ([]byte, error) {
	var n struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &n); err != nil {
		return nil, err
	}
	raw := make([]byte, 2*size)
	n.R.FillBytes(raw[:size])
	n.S.FillBytes(raw[size:])
	return raw, nil
}

package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// keySet is an issuer's keys as they were at one time. It never changes.
type keySet struct {
	keys []jose.JSONWebKey
}

const (
	maxKeys    = 100
	minRSABits = 2048 // RFC 7518, section 3.3
)

// parseKeys reads a JSON Web Key Set (RFC 7517). Keys that are of no use here are passed over, as its section 5
// has it: of unknown types, to encrypt with, secret or weak ones.
func parseKeys(data []byte) (*keySet, error) {
	var in struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, errors.New("not a JSON Web Key Set")
	}
	if len(in.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys; at most %d are accepted", len(in.Keys), maxKeys)
	}
	out := new(keySet)
	for _, raw := range in.Keys {
		var k jose.JSONWebKey
		if json.Unmarshal(raw, &k) == nil && k.IsPublic() && (k.Use == "" || k.Use == "sig") && strong(k.Key) {
			out.keys = append(out.keys, k)
		}
	}
	if len(out.keys) == 0 {
		return nil, errors.New("no key in it that tokens can be verified with")
	}
	return out, nil
}

func strong(key any) bool {
	r, ok := key.(*rsa.PublicKey)
	return !ok || r.N.BitLen() >= minRSABits
}

// find returns the keys that may have signed a token. The key decides which algorithm goes with it, the token
// doesn't (RFC 8725, section 3.1).
func (s *keySet) find(kid, alg string) []any {
	var out []any
	for i := range s.keys {
		k := &s.keys[i]
		if (kid == "" || k.KeyID == kid) && (k.Algorithm == "" || k.Algorithm == alg) && fits(k.Key, alg) {
			out = append(out, k.Key)
		}
	}
	return out
}

func fits(key any, alg string) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return alg == "EdDSA"
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return alg == "ES256"
		case elliptic.P384():
			return alg == "ES384"
		case elliptic.P521():
			return alg == "ES512"
		}
	}
	return false
}

package identity

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// pemText is a block of PEM (RFC 7468). (The encoder of encoding/pem would be 8 KB of every program.)
func pemText(kind string, der []byte) string {
	var b strings.Builder
	b.WriteString("-----BEGIN " + kind + "-----\n")
	for text := base64.StdEncoding.EncodeToString(der); text != ""; {
		n := min(64, len(text))
		b.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	b.WriteString("-----END " + kind + "-----\n")
	return b.String()
}

func pemChain(certs []*x509.Certificate) string {
	texts := make([]string, len(certs))
	for i, c := range certs {
		texts[i] = pemText("CERTIFICATE", c.Raw)
	}
	return strings.Join(texts, "")
}

// parsePair reads a chain of certificates, and the key of the first, of PEM. (tls.X509KeyPair and its like would be 15 KB of every program.)
func parsePair(chain, key []byte) (certs []*x509.Certificate, signer crypto.Signer, err error) {
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, nil, errors.New("no certificate is there")
	}
	for block, rest := pem.Decode(key); block != nil && signer == nil; block, rest = pem.Decode(rest) {
		if signer, err = parseKey(block); err != nil {
			return nil, nil, fmt.Errorf("the private key: %w", err)
		}
	}
	if signer == nil {
		return nil, nil, errors.New("no private key is there")
	}
	if public, ok := signer.Public().(interface{ Equal(x crypto.PublicKey) bool }); !ok || !public.Equal(certs[0].PublicKey) {
		return nil, nil, errors.New("the certificate is not that of the private key")
	}
	return certs, signer, nil
}

// parseKey returns nil and no error for a block that is no key.
func parseKey(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T can't sign", key)
	}
	return signer, nil
}

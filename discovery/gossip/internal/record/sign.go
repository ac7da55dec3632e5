package record

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
)

// A Subject is whom a record is about. It is signed with the record: nobody can pass a record off as that of another
// member, pool or address.
type Subject struct {
	Label, Instance, Addr string
}

// message is what is signed: each part behind its length, so that none can run into the next.
func (s Subject) message(record []byte) []byte {
	b := []byte("mesh gossip record 1")
	for _, part := range []string{s.Label, s.Instance, s.Addr, string(record)} {
		b = appendString(b, part)
	}
	return b
}

// ErrSignature is returned for a record that the key has not signed, or not for this subject.
var ErrSignature = errors.New("the record's signature is not by the member's key")

// Sign appends the signature by key (ECDSA and RSA-PSS over SHA-256, or Ed25519).
func Sign(record []byte, about Subject, key crypto.Signer) ([]byte, error) {
	message, opts := about.message(record), crypto.SignerOpts(crypto.Hash(0))
	if _, ok := key.Public().(ed25519.PublicKey); !ok {
		sum := sha256.Sum256(message)
		message, opts = sum[:], crypto.SHA256
	}
	if _, ok := key.Public().(*rsa.PublicKey); ok {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	sig, err := key.Sign(rand.Reader, message, opts)
	if err != nil {
		return nil, fmt.Errorf("sign the record: %w", err)
	}
	return appendField(bytes.Clone(record), tagSignature, sig), nil
}

// Verify returns an error, ErrSignature most likely, unless key has signed the record that Decode understood.
func Verify(b []byte, about Subject, key crypto.PublicKey) error {
	record, sig, ok := split(b)
	if !ok {
		return errors.New("the record is not signed")
	}
	message := about.message(record)
	sum := sha256.Sum256(message)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(key, sum[:], sig)
	case ed25519.PublicKey:
		ok = ed25519.Verify(key, message, sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPSS(key, crypto.SHA256, sum[:], sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	default:
		return fmt.Errorf("the member's key is a %T", key)
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

// split returns the record without its signature, and the signature.
func split(b []byte) (record, sig []byte, ok bool) {
	if len(b) == 0 {
		return nil, nil, false
	}
	d := decoder{b: b[1:]}
	for len(d.b) > 0 && !d.bad {
		rest := d.b
		if tag, value := d.byte(), d.bytes(); tag == tagSignature {
			return b[:len(b)-len(rest)], value, !d.bad && len(d.b) == 0
		}
	}
	return nil, nil, false
}

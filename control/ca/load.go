package ca

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// keys is what a running CA holds: all but the root's key.
type keys struct {
	root, intermediate *x509.Certificate
	signer             *ecdsa.PrivateKey // the intermediate's
	provisioner        *ecdsa.PrivateKey // signs tokens
}

func loadKeys(dir string) (k keys, err error) {
	if k.root, err = readCert(dir, rootCertFile); err != nil {
		return k, err
	}
	if k.intermediate, err = readCert(dir, intermediateCertFile); err != nil {
		return k, err
	}
	if k.signer, err = readKey(dir, intermediateKeyFile); err != nil {
		return k, err
	}
	if k.provisioner, err = readKey(dir, provisionerKeyFile); err != nil {
		return k, err
	}
	if !k.signer.PublicKey.Equal(k.intermediate.PublicKey) {
		return k, fmt.Errorf("ca: %s does not belong to %s", intermediateKeyFile, intermediateCertFile)
	}
	if err := k.intermediate.CheckSignatureFrom(k.root); err != nil {
		return k, fmt.Errorf("ca: %s is not signed by %s: %w", intermediateCertFile, rootCertFile, err)
	}
	return k, nil
}

func readCert(dir, name string) (*x509.Certificate, error) {
	der, err := readPEM(dir, name, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("ca: %s: %w", filepath.Join(dir, name), err)
	}
	return c, nil
}

func readKey(dir, name string) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("ca: %s may be read by others (mode %04o): run chmod 600 on it", path, perm)
	}
	der, err := readPEM(dir, name, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("ca: %s: %w", path, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("ca: %s: want an ECDSA key, it holds %T", path, key)
	}
	return ec, nil
}

func readPEM(dir, name, kind string) ([]byte, error) {
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind || len(rest) > 0 {
		return nil, fmt.Errorf("ca: %s: %w", path, errors.New("want one PEM block "+kind))
	}
	return block.Bytes, nil
}

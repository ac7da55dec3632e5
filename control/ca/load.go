package ca

import (
	"crypto"
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
	signer             crypto.Signer     // the intermediate's
	provisioner        *ecdsa.PrivateKey // signs tokens
}

func loadKeys(dir string, open *kmses) (k keys, err error) {
	if k.root, err = readCert(dir, rootCertFile); err != nil {
		return k, err
	}
	if k.intermediate, err = readCert(dir, intermediateCertFile); err != nil {
		return k, err
	}
	if k.signer, err = loadSigner(dir, open); err != nil {
		return k, err
	}
	if k.provisioner, err = readKey(dir, provisionerKeyFile); err != nil {
		return k, err
	}
	if pub, ok := k.signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(k.intermediate.PublicKey) {
		return k, fmt.Errorf("ca: the intermediate's key does not belong to %s", intermediateCertFile)
	}
	if err := k.intermediate.CheckSignatureFrom(k.root); err != nil {
		return k, fmt.Errorf("ca: %s is not signed by %s: %w", intermediateCertFile, rootCertFile, err)
	}
	return k, nil
}

func readCert(dir, name string) (*x509.Certificate, error) {
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	c, err := parseCert(data)
	if err != nil {
		return nil, fmt.Errorf("ca: %s: %w", path, err)
	}
	return c, nil
}

func parseCert(data []byte) (*x509.Certificate, error) {
	der, err := parsePEM(data, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func readKey(dir, name string) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, name)
	if err := checkPrivate(path); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("ca: %s: %w", path, err)
	}
	return key, nil
}

// checkPrivate refuses a file that others can read.
func checkPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%s may be read by others (mode %04o): run chmod 600 on it", path, perm)
	}
	return nil
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	der, err := parsePEM(data, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("want an ECDSA key, it holds %T", key)
	}
	return ec, nil
}

func parsePEM(data []byte, kind string) ([]byte, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind || len(rest) > 0 {
		return nil, errors.New("want one PEM block " + kind)
	}
	return block.Bytes, nil
}

package control

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// What a control plane's directory holds, beside mesh.yaml.
const (
	caDir         = "ca"
	gossipDir     = "gossip"   // remembered peers
	externalDir   = "external" // what the control plane has of an external CA
	storeFile     = "store.db"
	gossipKeyFile = "gossip.key"
	bundleKeyFile = "bundle.key"
	sealKeyFile   = "seal.key" // of secrets that replicas share through the store
	runFile       = "run.json"
)

const secretSize = store.SealKeySize // AES-256, for gossip too

// Init makes a new control plane in dir, which must not exist or be empty: keys and
// certificates, an empty store of rules, and mesh.yaml with the settings. What it made
// is gone again when it fails.
func Init(dir string, s Settings) error { return InitFrom(dir, s, nil) }

// InitFrom is [Init] with an intermediate that was made elsewhere, so that the root's key never is here; nil makes
// both.
func InitFrom(dir string, s Settings, b *ca.Brought) (err error) {
	s = s.withDefaults()
	if err := s.check(); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	td, err := spiffeid.TrustDomainFromString(s.TrustDomain)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if err := emptyDir(dir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, empty(dir))
		}
	}()
	switch {
	case b != nil && s.CA != (ca.External{}):
		err = errors.New("control: an external CA has its own intermediate: none can be brought")
	case s.CA != (ca.External{}):
		err = ca.CreateExternal(filepath.Join(dir, caDir))
	case b != nil:
		err = ca.CreateFrom(filepath.Join(dir, caDir), td, *b)
	default:
		err = ca.Create(filepath.Join(dir, caDir), td)
	}
	if err != nil {
		return err
	}
	if err := writeKeys(dir); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if err := createAdmin(dir); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if err := createStore(dir, s); err != nil {
		return err
	}
	if err := s.write(dir); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	return nil
}

// emptyDir makes dir, or finds it empty.
func emptyDir(dir string) error {
	if err := atomicfile.MkdirAll(dir); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if entries, err := os.ReadDir(dir); err != nil {
		return fmt.Errorf("control: %w", err)
	} else if len(entries) > 0 {
		return fmt.Errorf("control: %s is not empty: its keys are never overwritten, choose another directory", dir)
	}
	return nil
}

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

func writeKeys(dir string) error {
	pool := make([]byte, secretSize)
	_, _ = rand.Read(pool) // never fails
	for name, key := range map[string][]byte{gossipKeyFile: pool, sealKeyFile: store.NewSealKey()} {
		line := base64.StdEncoding.EncodeToString(key) + "\n"
		if err := atomicfile.Write(filepath.Join(dir, name), []byte(line), 0o600); err != nil {
			return err
		}
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, bundleKeyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// loadSecrets reads one key a line, the one that encrypts first.
func loadSecrets(dir, name string) ([][]byte, error) {
	path := filepath.Join(dir, name)
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	var keys [][]byte
	for i, line := range strings.Fields(string(data)) {
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != secretSize {
			return nil, fmt.Errorf("%s: key %d is not %d bytes in base64", path, i+1, secretSize)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no key", path)
	}
	return keys, nil
}

func loadBundleKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, bundleKeyFile)
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block in it", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: want an Ed25519 key, it holds %T", path, parsed)
	}
	return key, nil
}

func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %04o): run chmod 600 on it", path, perm)
	}
	return os.ReadFile(path)
}

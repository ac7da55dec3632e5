package ca

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.step.sm/crypto/kms"
	"go.step.sm/crypto/kms/apiv1"
)

// keyURIFile is there instead of the intermediate's key when that is in a KMS.
const keyURIFile = "intermediate.uri"

// kmses are the key managers that keys were opened in. They are closed with the CA.
type kmses struct {
	mu   sync.Mutex
	open []io.Closer
}

// openKey returns the key that a URI of smallstep's key management names: "softkms:/path", and those of each KMS below
// go.step.sm/crypto/kms that the program imports. Asking the KMS may take as long as that needs.
func (k *kmses) openKey(uri string) (crypto.Signer, error) {
	m, err := kms.New(context.Background(), apiv1.Options{URI: uri})
	if err != nil {
		return nil, fmt.Errorf("ca: the key %s: %w (a KMS other than softkms has to be linked in: see docs/identity.md)", kmsName(uri), err)
	}
	k.mu.Lock()
	k.open = append(k.open, m)
	k.mu.Unlock()
	signer, err := m.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: uri})
	if err != nil {
		return nil, fmt.Errorf("ca: the key %s: %w", kmsName(uri), err)
	}
	return signer, nil
}

// kmsName is a URI without what comes after "?", where a PIN may be.
func kmsName(uri string) string {
	name, _, _ := strings.Cut(uri, "?")
	return name
}

func (k *kmses) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range k.open {
		_ = m.Close() // nothing is written by then
	}
	k.open = nil
}

// Brought is an intermediate that was made elsewhere, and how to sign with it: the root's key never is here.
type Brought struct {
	// Root and Intermediate are PEM. The intermediate must be constrained to URIs of the trust domain.
	Root, Intermediate []byte
	// Key is the intermediate's, PEM; or KeyURI names it, as smallstep's tools do: "softkms:/path", "pkcs11:…".
	Key    []byte
	KeyURI string
}

// parse checks that the parts belong together.
func (b Brought) parse(td spiffeid.TrustDomain, k *kmses) (is *issuer, err error) {
	is = &issuer{}
	if is.root, err = parseCert(b.Root); err != nil {
		return nil, fmt.Errorf("ca: the root: %w", err)
	}
	if is.intermediate, err = parseCert(b.Intermediate); err != nil {
		return nil, fmt.Errorf("ca: the intermediate: %w", err)
	}
	if b.KeyURI != "" {
		is.signer, err = k.openKey(b.KeyURI)
	} else if is.signer, err = parseKey(b.Key); err != nil {
		err = fmt.Errorf("ca: the key: %w", err)
	}
	if err != nil {
		return nil, err
	}
	if err := checkIssuer(is, td); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return is, nil
}

// CreateFrom is [Create] for an intermediate that was made elsewhere.
func CreateFrom(dir string, td spiffeid.TrustDomain, b Brought) error {
	var k kmses
	defer k.close()
	if _, err := b.parse(td, &k); err != nil {
		return err
	}
	if err := atomicfile.MkdirAll(dir); err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	key, data := intermediateKeyFile, b.Key
	if b.KeyURI != "" {
		key, data = keyURIFile, []byte(b.KeyURI+"\n") // it may hold a PIN
	}
	for name, content := range map[string][]byte{rootCertFile: b.Root, intermediateCertFile: b.Intermediate, key: data} {
		if err := atomicfile.Write(filepath.Join(dir, name), content, 0o600); err != nil {
			return fmt.Errorf("ca: %w", err)
		}
	}
	_, err := writeKey(dir, provisionerKeyFile)
	return err
}

// loadSigner returns the intermediate's key, from its file or from where the URI says.
func loadSigner(dir string, k *kmses) (crypto.Signer, error) {
	uri, err := os.ReadFile(filepath.Join(dir, keyURIFile))
	if os.IsNotExist(err) {
		return readKey(dir, intermediateKeyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return k.openKey(strings.TrimSpace(string(uri)))
}

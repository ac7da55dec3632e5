package record_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"testing"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
)

var about = record.Subject{Label: "example.test", Instance: "i", Addr: "192.0.2.1:7946"}

func signers(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ECDSA": ec, "Ed25519": ed, "RSA": rs}
}

func TestSign(t *testing.T) {
	for name, key := range signers(t) {
		t.Run(name, func(t *testing.T) {
			plain := sample().Encode(member)
			signed, err := record.Sign(plain, about, key)
			if err != nil {
				t.Fatal(err)
			}
			if err := record.Verify(signed, about, key.Public()); err != nil {
				t.Error(err)
			}
			if r, err := record.Decode(signed, "i", member); err != nil || r.Generation != sample().Generation {
				t.Errorf("got %+v, %v", r, err)
			}
			for i := range signed {
				forged := bytes.Clone(signed)
				forged[i] ^= 1
				if record.Verify(forged, about, key.Public()) == nil {
					t.Fatalf("byte %d can be changed", i)
				}
			}
			for _, other := range []record.Subject{
				{Label: "other", Instance: about.Instance, Addr: about.Addr},
				{Label: about.Label, Instance: "j", Addr: about.Addr},
				{Label: about.Label, Instance: about.Instance, Addr: "192.0.2.2:7946"},
				{Label: about.Label + "\x01i", Instance: "", Addr: about.Addr},
			} {
				if err := record.Verify(signed, other, key.Public()); !errors.Is(err, record.ErrSignature) {
					t.Errorf("%+v: %v", other, err)
				}
			}
			if record.Verify(plain, about, key.Public()) == nil || record.Verify(append(signed, 200, 0), about, key.Public()) == nil {
				t.Error("unsigned bytes pass")
			}
		})
	}
}

// What most members announce stays small.
func TestSize(t *testing.T) {
	r := sample()
	r.Endpoints = []discovery.Endpoint{r.Endpoints[0]}
	signed, err := record.Sign(r.Encode(member), about, signers(t)["ECDSA"])
	if err != nil {
		t.Fatal(err)
	}
	if t.Logf("one endpoint: %d bytes", len(signed)); len(signed) > 200 {
		t.Error("more than 200 bytes")
	}
}

func FuzzVerify(f *testing.F) {
	key := signers(f)["Ed25519"]
	signed, err := record.Sign(sample().Encode(member), about, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if record.Verify(b, about, key.Public()) == nil && !bytes.Equal(b, signed) {
			t.Errorf("%x passes as signed", b)
		}
	})
}

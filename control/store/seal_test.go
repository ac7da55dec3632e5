package store_test

import (
	"bytes"
	"testing"

	"github.com/intramesh/mesh/control/store"
)

func TestSeal(t *testing.T) {
	key, secret := store.NewSealKey(), []byte("secret")
	sealed, err := store.Seal(key, "k", "a", secret)
	if err != nil || bytes.Contains(sealed, secret) {
		t.Fatal(err)
	}
	if got, err := store.Unseal(key, "k", "a", sealed); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := store.Unseal(key, "k", "b", sealed); err == nil {
		t.Error("opened under another name")
	}
	if _, err := store.Unseal(store.NewSealKey(), "k", "a", sealed); err == nil {
		t.Error("opened with another key")
	}
	if _, err := store.Unseal(key, "k", "a", sealed[:5]); err == nil {
		t.Error("opened a part")
	}
	if _, err := store.Seal(key[:16], "k", "a", secret); err == nil {
		t.Error("sealed with a short key")
	}
}

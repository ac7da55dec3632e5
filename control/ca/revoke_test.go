package ca_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/store"
)

func (s *server) rekey(t *testing.T, old *tls.Certificate) (*tls.Certificate, string) {
	t.Helper()
	key := newKey(t)
	status, body := s.post(t, "/rekey", map[string]string{"csr": csr(t, key)}, old)
	if status != http.StatusCreated {
		return nil, string(body)
	}
	return signed(t, body, key), ""
}

// serveDB is serve, and how to commit what Pardon returns.
func serveDB(t *testing.T) (s *server, commit func(store.Op)) {
	t.Helper()
	dir := newDir(t)
	db, err := store.Open(dir + "/store.db")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.Open(ca.Config{Dir: dir, DB: db, Host: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return serveCA(t, c, dir, func() error { return errors.Join(c.Close(), db.Close()) }), func(op store.Op) {
		if _, err := db.Commit(t.Context(), op); err != nil {
			t.Error(err)
		}
	}
}

// TestRevokeSerial: what a certificate was renewed into goes with it.
func TestRevokeSerial(t *testing.T) {
	s, commit := serveDB(t)
	first, other := s.enrol(t, "orders"), s.enrol(t, "orders")
	second, _ := s.rekey(t, first)
	third, _ := s.rekey(t, second)
	all, err := s.RevokeSerial(t.Context(), first.Leaf.SerialNumber)
	if err != nil || len(all) != 3 || all[2].Serial.Cmp(third.Leaf.SerialNumber) != 0 || !all[2].Expires.Equal(third.Leaf.NotAfter) {
		t.Fatalf("revoked %v, %v", all, err)
	}
	for i, c := range []*tls.Certificate{first, second, third} {
		if _, refused := s.rekey(t, c); !strings.Contains(refused, "the certificate was revoked") {
			t.Errorf("certificate %d was renewed, or refused with %q", i, refused)
		}
	}
	if _, refused := s.rekey(t, other); refused != "" {
		t.Errorf("another certificate: %s", refused)
	}
	commit(s.Pardon(third.Leaf.SerialNumber, ""))
	if _, refused := s.rekey(t, third); refused != "" {
		t.Errorf("taken back: %s", refused)
	}
	if c, ok := s.Find(third.Leaf.SerialNumber.String()); !ok || !c.Equal(third.Leaf) {
		t.Error("not found by its decimal serial number")
	}
	if c, ok := s.Find(third.Leaf.SerialNumber.Text(16)); !ok || !c.Equal(third.Leaf) {
		t.Error("not found by its hexadecimal serial number")
	}
}

// TestRevokeWhileRenewing: a renewal that a revocation overtakes does not get away.
func TestRevokeWhileRenewing(t *testing.T) {
	s := serve(t, newDir(t), 0)
	for range 8 {
		first := s.enrol(t, "orders")
		var wg sync.WaitGroup
		renewed := make([]*tls.Certificate, 4)
		for i := range renewed {
			wg.Go(func() { renewed[i], _ = s.rekey(t, first) })
		}
		if _, err := s.RevokeSerial(t.Context(), first.Leaf.SerialNumber); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		for _, c := range renewed {
			if c == nil {
				continue
			}
			if _, refused := s.rekey(t, c); refused == "" {
				t.Error("a certificate made while the one before it was revoked can be renewed")
			}
		}
	}
}

func TestRevokeService(t *testing.T) {
	s, commit := serveDB(t)
	old, other := s.enrol(t, "orders"), s.enrol(t, "payments")
	before, expires, err := s.RevokeService(t.Context(), "orders", false)
	if err != nil || old.Leaf.NotBefore.After(before) || expires.Before(old.Leaf.NotAfter) {
		t.Errorf("until %v, expiring %v: %v; a certificate is from %v", before, expires, err, old.Leaf.NotBefore)
	}
	if _, refused := s.rekey(t, old); !strings.Contains(refused, "service orders was revoked") {
		t.Errorf("renewed, or refused with %q", refused)
	}
	if _, refused := s.rekey(t, other); refused != "" {
		t.Errorf("another service: %s", refused)
	}
	next := time.NewTimer(1100 * time.Millisecond) // certificates count time in seconds
	<-next.C
	fresh := s.enrol(t, "orders")
	if !fresh.Leaf.NotBefore.After(before) {
		t.Errorf("a new certificate is from %v, not after %v", fresh.Leaf.NotBefore, before)
	}
	if fresh, refused := s.rekey(t, fresh); fresh == nil {
		t.Errorf("a new certificate: %s", refused)
	}
	body := map[string]string{"csr": csr(t, newKey(t)), "ott": s.token(t, "orders"), "notBefore": "1h"}
	if status, answer := s.post(t, "/sign", body, nil); status != http.StatusBadRequest || !strings.Contains(string(answer), "notBefore") {
		t.Errorf("a certificate that looks newer than it is: %d %s", status, answer)
	}
	if _, _, err := s.RevokeService(t.Context(), "orders", true); err != nil {
		t.Fatal(err)
	}
	body = map[string]string{"csr": csr(t, newKey(t)), "ott": s.token(t, "orders")}
	if status, answer := s.post(t, "/sign", body, nil); status != http.StatusForbidden {
		t.Errorf("enrolled as a service that nobody can be: %d %s", status, answer)
	}
	if err := s.Admit(t.Context(), "orders"); err == nil || err.Error() != (&ca.RevokedError{What: "service orders"}).Error() {
		t.Errorf("admit: %v", err)
	}
	commit(s.Pardon(nil, "orders"))
	if _, refused := s.rekey(t, old); refused != "" {
		t.Errorf("taken back: %s", refused)
	}
}

package ca_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/internal/etcdtest"
	"github.com/intramesh/mesh/control/store"
)

// TestReplicas: two authorities with the same keys on one etcd. What one issued the other renews; a token is used once at
// either; what is revoked at one is not renewed at the other.
func TestReplicas(t *testing.T) {
	dir, url := newDir(t), etcdtest.Start(t, 1, nil).URL("mesh")
	var replicas [2]*server
	for i := range replicas {
		db, err := store.OpenEtcd(t.Context(), url, nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := ca.Open(ca.Config{Dir: dir, DB: db, Host: "127.0.0.1", Lifetime: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		replicas[i] = serveCA(t, c, dir, func() error { return errors.Join(c.Close(), db.Close()) })
	}
	one, two := replicas[0], replicas[1]
	leaf := one.enrol(t, "orders")
	if status, body := two.post(t, "/renew", nil, leaf); status != http.StatusCreated {
		t.Errorf("renewal at the other: %d %s", status, body)
	}
	if _, err := one.RevokeSerial(t.Context(), leaf.Leaf.SerialNumber); err != nil {
		t.Fatal(err)
	}
	if status, body := two.post(t, "/renew", nil, leaf); status != http.StatusUnauthorized {
		t.Errorf("renewal of what was revoked at the other: %d %s", status, body)
	}
	for range 5 {
		token := one.token(t, "orders")
		var wg sync.WaitGroup
		var wins [8]int
		for i := range wins {
			wg.Go(func() {
				wins[i], _ = replicas[i%2].post(t, "/sign", map[string]string{"csr": csr(t, newKey(t), "spiffe://example.test/orders"), "ott": token}, nil)
			})
		}
		wg.Wait()
		won := 0
		for _, status := range wins {
			if status == http.StatusCreated {
				won++
			}
		}
		if won != 1 {
			t.Errorf("a token worked %d times at once: %v", won, wins)
		}
	}
}

// TestSweep: what expired is forgotten, late enough.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newDir(t)
		db, err := store.Open(dir + "/store.db")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		c, err := ca.Open(ca.Config{Dir: dir, DB: db, Host: "127.0.0.1", Lifetime: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		h := c.Server(nil).Handler
		for i := range 60 { // more than one commit takes
			token, err := c.Token("orders", time.Hour, "127.0.0.1:1")
			if err != nil {
				t.Fatal(err)
			}
			body := fmt.Sprintf(`{"csr": %q, "ott": %q}`, csr(t, newKey(t), "spiffe://example.test/orders"), token)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/sign", strings.NewReader(body)))
			if w.Code != http.StatusCreated {
				t.Fatalf("%d: %d %s", i, w.Code, w.Body)
			}
		}
		count := func() (n int) {
			for _, err := range db.All(t.Context(), "") {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			return n
		}
		before := count()
		for _, step := range []struct {
			after time.Duration
			want  int
		}{{29 * 24 * time.Hour, before}, {2 * 24 * time.Hour, before - 180}} {
			<-time.After(step.after)
			if err := c.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := count(); n != step.want {
				t.Errorf("%d records of %d, want %d", n, before, step.want)
			}
		}
	})
}

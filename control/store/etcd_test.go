package store_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/internal/etcdtest"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestEtcdURL(t *testing.T) {
	for _, c := range []struct{ url, problem string }{
		{"etcd://a:1,b:2/p", ""},
		{"etcd://[::1]:2379/a/b/?ca=x&cert=y&key=z", ""},
		{"etcd://a:1/p?plaintext=true", ""},
		{"http://a:1/p", "does not start with"},
		{"etcd://a:1", "is not etcd://"},
		{"etcd://a:1/", "is not etcd://"},
		{"etcd://a/p", "not HOST:PORT"},
		{"etcd://a:1,/p", "not HOST:PORT"},
		{"etcd://user:secret@a:1/p", "is not etcd://"},
		{"etcd://a:1/p?cert=x", "belong together"},
		{"etcd://a:1/p?plaintext=yes", "want true or false"},
		{"etcd://a:1/p?plaintext=true&ca=x", "exclude each other"},
		{"etcd://a:1/p?cacert=x", "unknown parameter"},
	} {
		_, err := store.ParseEtcdURL(c.url)
		if (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%s: %v, want %q", c.url, err, c.problem)
		}
	}
}

// TestEtcdTLS: with client certificates, and not without.
func TestEtcdTLS(t *testing.T) {
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString("etcd.test"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Server("127.0.0.1", "::1")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile, rootsFile, err := ca.Write(dir, &x509svid.SVID{Certificates: chain(t, cert.Certificate), PrivateKey: signer(t, cert.PrivateKey)})
	if err != nil {
		t.Fatal(err)
	}
	cluster := etcdtest.Start(t, 1, &etcdtest.TLS{CA: rootsFile, Cert: certFile, Key: keyFile})
	commit(t, openEtcd(t, cluster.URL("a")), put("k", "x", "1", 0))
	// Another prefix is another mesh.
	if got := list(t, openEtcd(t, cluster.URL("b")), ""); got != nil {
		t.Errorf("below another prefix: %q", got)
	}
	refused := func(what, query string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		base, _, _ := strings.Cut(cluster.URL("a"), "?")
		db, err := store.OpenEtcd(ctx, base+"?"+query, nil)
		if err == nil {
			t.Errorf("%s: it opened", what)
			_ = db.Close()
		}
	}
	refused("no client certificate", "ca="+rootsFile)
	refused("unknown roots", "cert="+certFile+"&key="+keyFile)
	refused("plaintext", "plaintext=true")
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, pem.EncodeToMemory(&pem.Block{Type: "X"}), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("no roots", "ca="+empty)
}

// TestEtcdFaults: a commit outlives the leader; without a quorum reads and writes fail clearly, and when it is back everything
// is there.
func TestEtcdFaults(t *testing.T) {
	cluster := etcdtest.Start(t, 3, nil)
	db := openEtcd(t, cluster.URL("mesh"))
	createRules(t, db)
	b := openRules(t, db, nil)
	if _, err := b.Apply(t.Context(), apply(doc("a", "x"))); err != nil {
		t.Fatal(err)
	}
	leader := cluster.Leader(t)
	leader.Kill()
	if _, err := b.Apply(t.Context(), apply(doc("b", "x"))); err != nil {
		if _, err = b.Apply(t.Context(), apply(doc("b", "x"))); err != nil { // unless it was under way
			t.Errorf("without the leader: %v", err)
		}
	}
	var other *etcdtest.Member
	for _, m := range cluster.Members {
		if m != leader {
			other = m
		}
	}
	other.Kill()
	began := time.Now()
	_, err := b.Apply(t.Context(), apply(doc("c", "x")))
	if _, ok := errors.AsType[*store.UnavailableError](err); !ok {
		t.Errorf("without a quorum: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v to say so", took)
	}
	if v := b.Rules(); len(v.Documents) != 2 {
		t.Errorf("rules in memory: %+v", v)
	}
	leader.Start(t)
	other.Start(t)
	cluster.Wait(t)
	again := openRules(t, openEtcd(t, cluster.URL("mesh")), nil)
	if _, err := again.Apply(t.Context(), apply(doc("d", "x"))); err != nil {
		t.Error(err)
	}
	want := again.Rules().Version
	for b.Rules().Version < want { // the old one hears of it by itself
		changed := b.Changed()
		if b.Rules().Version >= want {
			break
		}
		select {
		case <-changed:
		case <-deadline(t).Done():
			t.Fatal("the watch did not come back")
		}
	}
	names := map[string]bool{}
	for _, d := range b.Rules().Documents {
		names[d.Metadata.Name] = true
	}
	if !names["a"] || !names["b"] || !names["d"] {
		t.Errorf("left: %v", names)
	}
}

func chain(t *testing.T, ders [][]byte) (all []*x509.Certificate) {
	t.Helper()
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

func signer(t *testing.T, key any) crypto.Signer {
	t.Helper()
	s, ok := key.(crypto.Signer)
	if !ok {
		t.Fatalf("a %T", key)
	}
	return s
}

package store_test

import (
	"os"
	"testing"

	"github.com/intramesh/mesh/control/internal/etcdtest"
	"github.com/intramesh/mesh/control/store"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	etcdtest.Main()
	// glog starts it when etcd's server is linked in.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

// each runs a test against every DB: open returns it, the same one after a restart.
func each(t *testing.T, test func(t *testing.T, open func(t *testing.T) store.DB)) {
	t.Run("bolt", func(t *testing.T) {
		path := newStore(t)
		var last *store.Bolt
		test(t, func(t *testing.T) store.DB {
			if last != nil {
				_ = last.Close() // one process at a time
			}
			last = open(t, path)
			return last
		})
	})
	t.Run("etcd", func(t *testing.T) {
		url := etcdtest.Start(t, 1, nil).URL("mesh")
		test(t, func(t *testing.T) store.DB { return openEtcd(t, url) })
	})
}

func openEtcd(t *testing.T, url string) *store.Etcd {
	t.Helper()
	db, err := store.OpenEtcd(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func newStore(t *testing.T) string {
	t.Helper()
	path := t.TempDir() + string(os.PathSeparator) + "store.db"
	if err := store.Create(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) *store.Bolt {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

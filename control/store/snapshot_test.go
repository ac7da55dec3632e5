package store_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/internal/etcdtest"
	"github.com/intramesh/mesh/control/store"
)

// TestSnapshot: from each store into each, and the version is one that no member has seen.
func TestSnapshot(t *testing.T) {
	cluster := etcdtest.Start(t, 1, nil)
	n := 0
	fresh := map[string]func() store.DB{
		"bolt": func() store.DB { return open(t, newStore(t)) },
		"etcd": func() store.DB { n++; return openEtcd(t, cluster.URL(strings.Repeat("m", n))) },
	}
	for from, source := range fresh {
		db := source()
		createRules(t, db)
		b := openRules(t, db, nil)
		for _, name := range []string{"a", "b", "c"} {
			if _, err := b.Apply(t.Context(), apply(doc(name, "x"))); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.Apply(t.Context(), store.Edit{Attach: map[string]json.RawMessage{"x": json.RawMessage(`1`)}}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			commit(t, db, put("big", strings.Repeat("k", i+1), strings.Repeat("v", 400_000), 0), put("empty", strings.Repeat("k", i+1), "", 0))
		}
		commit(t, db, put(store.KindReplicas, "gone", "{}", 0))
		var snapshot bytes.Buffer
		if err := store.WriteSnapshot(t.Context(), db, "example.test", &snapshot); err != nil {
			t.Fatal(err)
		}
		want := b.Rules()
		for to, target := range fresh {
			t.Run(from+" to "+to, func(t *testing.T) {
				into := target()
				version, err := store.Restore(t.Context(), into, bytes.NewReader(snapshot.Bytes()), "example.test")
				if err != nil {
					t.Fatal(err)
				}
				r := openRules(t, into, nil)
				got := r.Rules()
				if got.Version != version || version < uint64(time.Now().Unix()-5) || !reflect.DeepEqual(got.Documents, want.Documents) || !reflect.DeepEqual(got.Attached, want.Attached) {
					t.Errorf("restored %+v, want %+v", got, want)
				}
				if old, err := r.At(t.Context(), 3); err != nil || len(old.Documents) != 2 {
					t.Errorf("history: %+v, %v", old, err)
				}
				if len(list(t, into, "big")) != 3 || len(list(t, into, "empty")) != 3 || list(t, into, store.KindReplicas) != nil {
					t.Error("not the same records")
				}
				if res, err := r.Apply(t.Context(), apply(doc("d", "x"))); err != nil || res.Version != version+1 {
					t.Errorf("the next: %+v, %v", res, err)
				}
				if _, err := store.Restore(t.Context(), into, bytes.NewReader(snapshot.Bytes()), "example.test"); !errors.Is(err, store.ErrNotEmpty) {
					t.Errorf("restored over a mesh: %v", err)
				}
			})
		}
	}
}

// unpacked returns what gzip makes of data, nil where it finds it damaged.
func unpacked(data []byte) []byte {
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	all, err := io.ReadAll(zr)
	if err != nil {
		return nil
	}
	return all
}

// TestSnapshotDamage: nothing is written from a snapshot that is not whole.
func TestSnapshotDamage(t *testing.T) {
	db := open(t, newStore(t))
	createRules(t, db)
	commit(t, db, put("a", "x", "1", 0))
	var buf bytes.Buffer
	if err := store.WriteSnapshot(t.Context(), db, "example.test", &buf); err != nil {
		t.Fatal(err)
	}
	whole := buf.Bytes()
	into := open(t, newStore(t))
	refused := func(what string, data []byte, td string) {
		t.Helper()
		if _, err := store.Restore(t.Context(), into, bytes.NewReader(data), td); err == nil {
			t.Fatalf("%s: it was restored", what)
		}
		if all := list(t, into, ""); all != nil {
			t.Fatalf("%s: it left %q", what, all)
		}
	}
	for i := 0; i < len(whole); i += 7 {
		refused("cut off", whole[:i], "example.test")
	}
	for i := 10; i < len(whole)-8; i += 7 {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1
		if bytes.Equal(unpacked(flipped), unpacked(whole)) {
			continue // a length of a Huffman code that is not used, say: nothing is damaged
		}
		refused("flipped", flipped, "example.test")
	}
	refused("another mesh's", whole, "other.test")
	refused("nothing", nil, "example.test")
}

package mesh_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/files"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/internal/atomicfile"
)

// fileOf is a file that lists services, and a source that follows it.
func fileOf(t *testing.T, services map[string]netip.AddrPort) (src *files.Source, list func(map[string]netip.AddrPort)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "endpoints.json")
	list = func(services map[string]netip.AddrPort) {
		t.Helper()
		eps := []map[string]any{}
		for s, a := range services {
			eps = append(eps, map[string]any{"service": s, "address": a})
		}
		raw, err := json.Marshal(map[string]any{"endpoints": eps})
		if err != nil {
			t.Fatal(err)
		}
		if err := atomicfile.Write(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list(services)
	src, err := files.Open(files.Config{Path: path, Poll: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src, list
}

func fetch(t *testing.T, m *mesh.Mesh, url string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := m.HTTPClient().Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// A file says where somebody is; who it is, its certificate says.
func TestDiscoveryByFile(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	nowhere := func(c *mesh.Config) { c.Discovery = static.New() }
	payments, other := w.join("payments", nowhere), w.join("other", nowhere)
	hello := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
	}
	right := addrOf(w.serveHTTP(payments, hello("payments")))
	wrong := addrOf(w.serveHTTP(other, hello("other")))

	src, list := fileOf(t, nil)
	orders := w.join("orders", func(c *mesh.Config) { c.Discovery = src })
	if _, err := fetch(t, orders, "http://payments/"); !errors.Is(err, mesh.ErrNoEndpoints) {
		t.Errorf("nobody is listed: %v", err)
	}
	list(map[string]netip.AddrPort{"payments": wrong})
	discoverytest.AwaitCount(t, src, "payments", 1)
	if body, err := fetch(t, orders, "http://payments/"); err == nil {
		t.Errorf("somebody else answered %q", body)
	}
	before := src.Lookup("payments").Changed
	list(map[string]netip.AddrPort{"payments": right})
	<-before
	if body, err := fetch(t, orders, "http://payments/"); err != nil || body != "payments" {
		t.Errorf("got %q, %v", body, err)
	}
}

// What the members announce and what a file lists are both found; a listener announces to the former.
func TestAlsoDiscovery(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"}, rule{from: "orders", to: "ledger"})
	text := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
	}
	ledger := w.join("ledger", func(c *mesh.Config) { c.Discovery = static.New() })
	src, _ := fileOf(t, map[string]netip.AddrPort{"ledger": addrOf(w.serveHTTP(ledger, text("ledger")))})
	also := func(c *mesh.Config) { c.AlsoDiscovery = discovery.Behind(src) }
	w.serveHTTP(w.join("payments", also), text("payments"))
	orders := w.join("orders", also)
	for _, service := range []string{"payments", "ledger"} {
		if body, err := fetch(t, orders, "http://"+service+"/"); err != nil || body != service {
			t.Errorf("got %q, %v", body, err)
		}
	}
	if eps := w.names.Lookup("payments").Endpoints; len(eps) != 1 || eps[0].State != discovery.Ready {
		t.Errorf("announced: %+v", eps)
	}
}

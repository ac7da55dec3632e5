package files_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/files"
	"github.com/intramesh/mesh/discovery/internal/testlog"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/internal/atomicfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, cfg files.Config) *files.Source {
	t.Helper()
	s, err := files.Open(cfg)
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

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := atomicfile.Write(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writer announces by writing the file.
type writer struct {
	*static.Member
	all  discovery.Resolver
	path string
}

var services = []string{"payments", "other", "orders", "billing/invoices", "s0", "s1", "s2", "s3"}

// mu keeps what is older from being written last.
var mu sync.Mutex

func (w writer) save(err error) error {
	mu.Lock()
	defer mu.Unlock()
	var list struct {
		Endpoints []map[string]any `json:"endpoints"`
	}
	list.Endpoints = []map[string]any{}
	for _, s := range services {
		for _, ep := range w.all.Lookup(s).Endpoints {
			e := map[string]any{"service": ep.Service, "address": ep.Addr.String(), "instance": ep.Instance, "state": ep.State.String()}
			if ep.Port != "" {
				e["port"] = ep.Port
			}
			if ep.Zone != "" {
				e["zone"] = ep.Zone
			}
			if ep.Weight != 0 {
				e["weight"] = ep.Weight
			}
			list.Endpoints = append(list.Endpoints, e)
		}
	}
	raw, jerr := json.Marshal(list)
	return errors.Join(err, jerr, atomicfile.Write(w.path, raw, 0o600))
}

func (w writer) Register(ctx context.Context, ep discovery.Endpoint) error {
	if err := w.Member.Register(ctx, ep); err != nil {
		return err
	}
	return w.save(nil)
}

func (w writer) Deregister(ctx context.Context, ep discovery.Endpoint) error {
	return w.save(w.Member.Deregister(ctx, ep))
}

func TestConformance(t *testing.T) {
	discoverytest.Run(t, func(t *testing.T) discoverytest.Harness {
		path := filepath.Join(t.TempDir(), "endpoints.json")
		write(t, path, `{"endpoints": []}`)
		dir, n := static.New(), 0
		return discoverytest.Harness{Join: func(t testing.TB) discoverytest.Member {
			n++
			w := writer{dir.Member(fmt.Sprintf("instance-%d", n)), dir, path}
			s := open(t, files.Config{Path: path, Poll: 5 * time.Millisecond})
			return discoverytest.Member{
				Resolver: s, Registrar: w, Instance: w.Instance(),
				Leave: func(context.Context) error { return w.save(errors.Join(w.Close(), s.Close())) },
			}
		}}
	})
}

const one = `{"endpoints": [{"service": "payments", "address": "192.0.2.1:8443"}]}`

// A ConfigMap's file is a link to a file below a link to a directory, and the latter is switched.
func TestConfigMap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		version := func(name, text string) {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, name, "e.json"), text)
			if err := errors.Join(os.Symlink(name, filepath.Join(dir, "..tmp")),
				os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data"))); err != nil {
				t.Fatal(err)
			}
		}
		version("..1", one)
		path := filepath.Join(dir, "e.json")
		if err := os.Symlink("..data/e.json", path); err != nil {
			t.Fatal(err)
		}
		s := open(t, files.Config{Path: path})
		before := s.Lookup("payments")
		version("..2", strings.ReplaceAll(one, "192.0.2.1", "192.0.2.9"))
		<-before.Changed
		if got := s.Lookup("payments").Endpoints; got[0].Addr != netip.MustParseAddrPort("192.0.2.9:8443") {
			t.Errorf("got %+v", got)
		}
	})
}

func TestLastGoodStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "e.json")
		write(t, path, one)
		var log testlog.Buffer
		s := open(t, files.Config{Path: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		good := s.Lookup("payments")
		step := func(warnings int, what string) {
			t.Helper()
			time.Sleep(10 * time.Second) //nolint:forbidigo // virtual time
			synctest.Wait()
			if !slices.Equal(s.Lookup("payments").Endpoints, good.Endpoints) {
				t.Errorf("%s: got %+v", what, s.Lookup("payments").Endpoints)
			}
			if got := strings.Count(log.String(), "level=WARN"); got != warnings {
				t.Errorf("%s: %d warnings, want %d:\n%s", what, got, warnings, log.String())
			}
		}
		write(t, path, one[:30])
		step(1, "half a file")
		if !strings.Contains(log.String(), "e.json:1:31: ") {
			t.Errorf("the place is missing:\n%s", log.String())
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		step(2, "no file")
		write(t, path, one)
		step(2, "the file is back")
		write(t, path, `{"endpoints": []}`)
		<-good.Changed
		if got := s.Lookup("payments").Endpoints; len(got) != 0 {
			t.Errorf("an empty list leaves %+v", got)
		}
	})
}

func TestParse(t *testing.T) {
	got, err := files.Parse("f", []byte(`{"endpoints": [
		{"service": "billing/invoices", "port": "admin", "address": "[::ffff:192.0.2.1]:1", "instance": "i", "zone": "z", "weight": 7, "state": "starting", "also": ["2001:db8::1", "192.0.2.9"]}]}
	`))
	want := []discovery.Endpoint{{
		Service: "billing/invoices", Port: "admin", Instance: "i", Addr: netip.MustParseAddrPort("192.0.2.1:1"),
		Zone: "z", Weight: 7, State: discovery.Starting, Also: discovery.AddrsOf(netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.9")),
	}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}

	in := func(s string) string { return "{\"endpoints\": [\n  {" + s + "}\n]}" }
	for _, tt := range []struct{ text, want string }{
		{"", "f:1:1: the file ends too early"},
		{"[]", "f:1:1: want an object"},
		{"{} {}", "f:1:4: something follows the object"},
		{`{"endpoint": []}`, "f:1:2: endpoint: unknown field"},
		{`{"endpoints": {}}`, "f:1:15: endpoints: want a list"},
		{`{"endpoints": [], "endpoints": []}`, "f:1:19: endpoints: given twice"},
		{`{"endpoints": [1]}`, "f:1:16: endpoints[0]: want an object"},
		{`{"endpoints": [`, "f:1:16: endpoints: the file ends too early"},
		{`{"endpoints": [}`, "f:1:16: endpoints: invalid character '}' looking for beginning of value"},
		{in(``), "f:2:3: endpoints[0]: service is missing"},
		{in(`"service": "a"`), "f:2:3: endpoints[0]: address is missing"},
		{in(`"service": "A"`), `f:2:15: endpoints[0].service: service name "A": character 'A' is not one of a–z, 0–9, - and _`},
		{in(`"service": 1`), "f:2:15: endpoints[0].service: want a string"},
		{in(`"service": "a", "colour": {}`), "f:2:20: endpoints[0].colour: unknown field"},
		{in(`"address": "payments:1"`), `f:2:15: endpoints[0].address: ParseAddr("payments"): unable to parse IP`},
		{in(`"address": "192.0.2.1:0"`), "f:2:15: endpoints[0].address: the port is 0"},
		{in(`"also": ["example.org"]`), `f:2:13: endpoints[0].also[0]: ParseAddr("example.org"): unexpected character (at "example.org")`},
		{in(`"also": ["::1", "::2", "::3", "::4"]`), "f:2:34: endpoints[0].also[3]: want at most 3 more addresses"},
		{in(`"weight": 0`), "f:2:14: endpoints[0].weight: want a whole number from 1 to 65535"},
		{in(`"weight": 1.5`), "f:2:14: endpoints[0].weight: want a whole number from 1 to 65535"},
		{in(`"state": "up"`), "f:2:13: endpoints[0].state: want ready, starting or draining"},
		{in(`"zone": "a b"`), "f:2:12: endpoints[0].zone: want 1 to 128 printable ASCII characters without spaces"},
		{in(`"service": "a", "address": "192.0.2.1:1"},` + "\n\t" + `{"service": "a", "address": "192.0.2.1:1"`),
			`f:3:2: endpoints[1]: instance 192.0.2.1:1 of a is listed twice for port ""`},
	} {
		_, err := files.Parse("f", []byte(tt.text))
		var perr *files.ParseError
		if !errors.As(err, &perr) || err.Error() != tt.want {
			t.Errorf("%s\n got %v\nwant %s", tt.text, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(one))
	f.Add([]byte(`{"endpoints": [{"weight": 1e3, "port": "x"}, [], null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := files.Parse("f", data)
		var perr *files.ParseError
		if err != nil && (!errors.As(err, &perr) || perr.Line < 1 || perr.Column < 1) {
			t.Errorf("no place: %v", err)
		}
	})
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := files.Open(files.Config{Path: filepath.Join(dir, "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	big := filepath.Join(dir, "big")
	write(t, big, one+strings.Repeat(" ", 5<<20))
	if _, err := files.Open(files.Config{Path: big}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

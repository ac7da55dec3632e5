package mesh_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/intramesh/mesh"

// A depRule forbids the packages in which an import path below one of from may not end up, however
// long the way.
type depRule struct {
	name string
	// from and except are import paths relative to the module, "." being its root; "x/..." means x and
	// all below it.
	from, except []string
	// forbid maps import path prefixes to the reason.
	forbid map[string]string
}

var depRules = []depRule{{
	name: "the root module is light",
	from: []string{"..."},
	forbid: map[string]string{
		"github.com/smallstep":                       "an application speaks the CA's HTTP API; smallstep's own client adds 17 MiB",
		"go.step.sm":                                 "belongs to smallstep's code",
		"go.etcd.io":                                 "stores (bbolt, etcd) are the control plane's",
		"go.opentelemetry.io/otel/sdk":               "the application chooses and sets up its SDK",
		"go.opentelemetry.io/otel/exporters":         "the application chooses its exporters",
		"github.com/prometheus":                      "metrics leave through trace hooks, and the application chooses where to",
		"github.com/hashicorp/consul":                "discovery uses memberlist alone",
		"gopkg.in/yaml":                              "members get rules as JSON; YAML is what people write to the control plane",
		"go.yaml.in/yaml":                            "members get rules as JSON; YAML is what people write to the control plane",
		"sigs.k8s.io/yaml":                           "members get rules as JSON; YAML is what people write to the control plane",
		"github.com/goccy/go-yaml":                   "members get rules as JSON; YAML is what people write to the control plane",
		"github.com/google/cel-go":                   "conditions are compiled by package policy, without an expression language",
		"github.com/intramesh/mesh/control":          "the control plane imports the library, not the other way round",
		"github.com/intramesh/mesh/examples":         "examples import the library, not the other way round",
		"github.com/intramesh/mesh/bench":            "benchmarks import the library, not the other way round",
		"github.com/sirupsen/logrus":                 "logs go through log/slog",
		"go.uber.org/zap":                            "logs go through log/slog",
		"github.com/hashicorp/go-metrics/prometheus": "metrics leave through trace hooks",
	},
}, {
	name:   "only adapters know gRPC and OpenTelemetry",
	from:   []string{"..."},
	except: []string{"meshgrpc/...", "meshotel/..."},
	forbid: map[string]string{
		"google.golang.org/grpc":               "a service without gRPC does not pay for it",
		"google.golang.org/protobuf":           "a service without gRPC does not pay for it",
		"go.opentelemetry.io":                  "a service without OpenTelemetry does not pay for it",
		"github.com/intramesh/mesh/meshgrpc":   "adapters import mesh, not the other way round",
		"github.com/intramesh/mesh/meshotel":   "adapters import mesh, not the other way round",
		"net/http/pprof":                       "it registers handlers in the application's default mux",
		"expvar":                               "it registers handlers in the application's default mux",
		"github.com/intramesh/mesh/cmd":        "commands import the library",
		"github.com/spiffe/go-spiffe/v2/proto": "the workload API (and its gRPC) is the application's choice",
	},
}, {
	name:   "only policy/jwt knows JOSE",
	from:   []string{"..."},
	except: []string{"policy/jwt/..."},
	forbid: map[string]string{"github.com/go-jose": "a service whose rules look at no tokens does not pay for it"},
}, {
	name:   "test helpers stay out of programs",
	from:   []string{"..."},
	except: []string{"meshtest/...", "discovery/discoverytest/...", "discovery/internal/dnstest/...", "discovery/internal/realtest/...", "internal/testca/...", "internal/testserve/..."},
	forbid: map[string]string{
		"testing":                            "it registers flags in programs",
		"go.uber.org/goleak":                 "for tests only",
		"github.com/intramesh/mesh/meshtest": "for tests only",
	},
}, {
	name: "internal is below mesh",
	from: []string{"internal/..."},
	forbid: map[string]string{
		module + "$": "mesh imports internal/, never the other way round",
	},
}, {
	name:   "identity imports nothing of ours",
	from:   []string{"identity/..."},
	forbid: ours("identity", "internal"),
}, {
	name:   "discovery imports nothing of ours",
	from:   []string{"discovery/..."},
	forbid: ours("discovery", "internal"),
}, {
	name:   "balance imports nothing of ours",
	from:   []string{"balance/..."},
	forbid: ours("balance", "internal"),
}, {
	name:   "policy imports identity and nothing else of ours",
	from:   []string{"policy/..."},
	forbid: ours("policy", "identity", "internal"),
}}

// ours forbids all packages of the root module but those below the given ones.
func ours(but ...string) map[string]string {
	m := map[string]string{module + "$": "mesh is on top"}
	for _, p := range []string{"identity", "discovery", "policy", "balance", "meshgrpc", "meshotel", "meshtest", "internal"} {
		if !slices.Contains(but, p) {
			m[module+"/"+p] = "the direction of imports: identity, discovery, balance; policy; mesh; adapters"
		}
	}
	return m
}

// TestDependencies keeps small what an application takes on by importing the library, and keeps the packages
// in the order that CONTRIBUTING.md gives.
func TestDependencies(t *testing.T) {
	graph := load(t, ".", "./...")
	for _, r := range depRules {
		t.Run(r.name, func(t *testing.T) {
			for path, p := range graph {
				if p.Module == nil || p.Module.Path != module || !r.covers(path) {
					continue
				}
				for banned, why := range r.forbid {
					if chain := reach(graph, path, banned); chain != nil {
						t.Errorf("%s: %s", strings.Join(chain, "\n\t→ "), why)
					}
				}
			}
		})
	}
}

// TestMinimalService counts the modules that a service which joins, listens and dials links: each is
// one to audit and to update. (go list -m all counts more: it also names the modules that
// dependencies mention in their go.mod and that nothing here uses.)
func TestMinimalService(t *testing.T) {
	if _, err := os.Stat("examples/minimal"); err != nil {
		t.Skip("the examples are another module, not here")
	}
	const limit = 25
	linked := map[string]bool{}
	for _, p := range load(t, "examples", "./minimal") {
		if p.Module != nil && !strings.HasPrefix(p.Module.Path, module) {
			linked[p.Module.Path] = true
		}
	}
	t.Logf("examples/minimal links %d modules (at most %d): %s", len(linked), limit, strings.Join(sorted(linked), " "))
	if len(linked) > limit {
		t.Errorf("examples/minimal links %d modules, more than %d", len(linked), limit)
	}
	if len(linked) == 0 {
		t.Error("go list names no module: this test tests nothing")
	}
}

func (r *depRule) covers(path string) bool {
	in := func(pattern string) bool {
		base, below := strings.CutSuffix(pattern, "...")
		base = strings.TrimSuffix(module+"/"+strings.TrimPrefix(base, "."), "/")
		return path == base || below && strings.HasPrefix(path, base+"/")
	}
	return slices.ContainsFunc(r.from, in) && !slices.ContainsFunc(r.except, in)
}

// reach returns the shortest chain of imports from a package to one at or below banned (exactly
// banned, with a trailing "$"), nil when there is none.
func reach(graph map[string]*listed, from, banned string) []string {
	exact, isExact := strings.CutSuffix(banned, "$")
	hit := func(p string) bool {
		if isExact || p == exact {
			return p == exact
		}
		return strings.HasPrefix(p, banned) && (strings.HasPrefix(p[len(banned):], "/") || strings.HasPrefix(p[len(banned):], "."))
	}
	before := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at != from && hit(at) {
			var chain []string
			for ; at != ""; at = before[at] {
				chain = append(chain, at)
			}
			slices.Reverse(chain)
			return chain
		}
		if p := graph[at]; p != nil {
			for _, next := range p.Imports {
				if _, seen := before[next]; !seen {
					before[next] = at
					queue = append(queue, next)
				}
			}
		}
	}
	return nil
}

// A listed is what go list says of a package.
type listed struct {
	ImportPath string
	Imports    []string
	Module     *struct{ Path string }
	Error      *struct{ Err string }
}

func load(t *testing.T, dir string, pattern string) map[string]*listed {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command here")
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps", "-json=ImportPath,Imports,Module,Error", pattern)
	cmd.Dir, cmd.Stderr = dir, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	graph := map[string]*listed{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return graph
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Error != nil {
			t.Errorf("go list %s: %s", p.ImportPath, p.Error.Err)
		}
		graph[p.ImportPath] = &p
	}
}

func sorted(set map[string]bool) []string {
	s := make([]string, 0, len(set))
	for k := range set {
		s = append(s, k)
	}
	slices.Sort(s)
	return s
}

package policyimport_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/policyimport"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// The types are those of the published service-intentions config entry; the evaluator is written from its reference
// (https://developer.hashicorp.com/consul/docs/reference/config-entry/service-intentions).
type (
	consulEntry struct {
		Kind    string
		Name    string
		JWT     map[string]any `json:",omitempty"`
		Sources []consulSource
	}
	consulSource struct {
		Name        string
		Action      string             `json:",omitempty"`
		Permissions []consulPermission `json:",omitempty"`
	}
	consulPermission struct {
		Action string
		HTTP   consulHTTP
	}
	consulHTTP struct {
		PathExact, PathPrefix, PathRegex string         `json:",omitempty"`
		Methods                          []string       `json:",omitempty"`
		Header                           []consulHeader `json:",omitempty"`
	}
	consulHeader struct {
		Name                         string
		Exact, Prefix, Suffix, Regex string `json:",omitempty"`
		Present, Invert, IgnoreCase  bool   `json:",omitempty"`
	}
)

type consulRequest struct {
	from, to     string
	tcp          bool
	method, path string
	lines        []string // of the header x-tenant
}

// consulAllows: the intention with the most exact destination, then source, decides alone; what none decides is denied.
func consulAllows(entries []consulEntry, r consulRequest) bool {
	for _, pair := range [][2]string{{r.from, r.to}, {"*", r.to}, {r.from, "*"}, {"*", "*"}} {
		for _, e := range entries {
			for _, s := range e.Sources {
				if s.Name != pair[0] || e.Name != pair[1] {
					continue
				}
				if len(s.Permissions) == 0 {
					return s.Action == "allow" && e.JWT == nil
				}
				for _, p := range s.Permissions {
					if !r.tcp && p.HTTP.match(r) {
						return p.Action == "allow" && e.JWT == nil
					}
				}
				return false
			}
		}
	}
	return false
}

func (h consulHTTP) match(r consulRequest) bool {
	switch {
	case h.PathExact != "" && r.path != h.PathExact,
		h.PathPrefix != "" && !strings.HasPrefix(r.path, h.PathPrefix),
		h.PathRegex != "" && !regexp.MustCompile("^(?:"+h.PathRegex+")$").MatchString(r.path),
		len(h.Methods) > 0 && !slices.Contains(h.Methods, r.method):
		return false
	}
	for _, m := range h.Header {
		v, present := strings.Join(r.lines, ","), len(r.lines) > 0
		if m.IgnoreCase {
			v = strings.ToLower(v)
		}
		match := present && (m.Present || m.Exact != "" && v == m.Exact || m.Prefix != "" && strings.HasPrefix(v, m.Prefix) ||
			m.Suffix != "" && strings.HasSuffix(v, m.Suffix) || m.Regex != "" && regexp.MustCompile("^(?:"+m.Regex+")$").MatchString(v))
		if match == m.Invert {
			return false
		}
	}
	return true
}

type consulGen struct{ istioGen }

func (g consulGen) entries() []consulEntry {
	out := []consulEntry{}
	for _, name := range []string{"web", "db", "*"} {
		if g.IntN(3) == 0 {
			continue
		}
		e := consulEntry{Kind: "service-intentions", Name: name}
		if g.IntN(10) == 0 {
			e.JWT = map[string]any{"Providers": []any{map[string]any{"Name": "okta"}}}
		}
		for _, s := range []string{"shop", "api", "*"} {
			if g.IntN(3) == 0 {
				continue
			}
			src := consulSource{Name: s, Action: g.pick("allow", "deny")}
			if name != "*" && g.IntN(2) == 0 {
				src.Action = ""
				for range 1 + g.IntN(3) {
					src.Permissions = append(src.Permissions, g.permission())
				}
			}
			e.Sources = append(e.Sources, src)
		}
		if e.Sources == nil {
			e.Sources = []consulSource{}
		}
		out = append(out, e)
	}
	return out
}

func (g consulGen) permission() consulPermission {
	p := consulPermission{Action: g.pick("allow", "allow", "deny")}
	switch g.IntN(6) {
	case 0, 1:
		p.HTTP.PathPrefix = g.pick("/", "/admin", "/public/", "/pay.v1.Payments/")
	case 2, 3:
		p.HTTP.PathExact = g.pick("/admin", "/public/info", "/a*", "/v1/{id}", "/pay.v1.Payments/Charge")
	case 4:
		p.HTTP.PathRegex = g.pick("/public/.*", "/admin")
	}
	if g.IntN(3) == 0 {
		p.HTTP.Methods = g.some("GET", "POST")[:1]
	}
	if g.IntN(3) == 0 || p.HTTP.PathExact+p.HTTP.PathPrefix+p.HTTP.PathRegex == "" && p.HTTP.Methods == nil {
		h := consulHeader{Name: "X-Tenant", Invert: g.IntN(3) == 0, IgnoreCase: g.IntN(8) == 0}
		switch v := g.pick("a", "b", "a,b", "a*"); g.IntN(5) {
		case 0:
			h.Present = true
		case 1:
			h.Prefix = v
		case 2:
			h.Suffix = v
		case 3:
			h.Regex = "a.*"
		default:
			h.Exact = v
		}
		p.HTTP.Header = []consulHeader{h}
	}
	return p
}

func (r consulRequest) ours() *policy.Request {
	q := &policy.Request{Source: spiffeid.RequireFromString("spiffe://" + ownDomain + "/" + r.from), Destination: r.to}
	if r.tcp {
		return q
	}
	q.Layer, q.Method, q.Path, q.Host, q.Header = policy.LayerHTTP, r.method, r.path, r.to, map[string][]string{}
	if len(r.lines) > 0 {
		q.Header["X-Tenant"] = r.lines
	}
	if strings.HasPrefix(r.path, "/pay.v1.Payments/") {
		q.Layer, q.GRPCMethod, q.Method, q.Path, q.Host = policy.LayerGRPC, r.path[1:], "", "", ""
	}
	return q
}

// TestConsulNeverWider compares the translation with a plain evaluator, as [TestIstioNeverWider] does.
func TestConsulNeverWider(t *testing.T) {
	rounds := 4000
	if testing.Short() {
		rounds = 400
	}
	var agree, narrower, denied int
	for seed := range rounds {
		g := consulGen{istioGen{rand.New(rand.NewPCG(uint64(seed), 2))}}
		entries := g.entries()
		text, err := json.Marshal(entries)
		if err != nil {
			t.Fatal(err)
		}
		r, err := policyimport.Consul([]policyimport.File{{Name: "in.json", Data: text}})
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		if r.Widens() {
			t.Fatalf("seed %d: %v\n%s", seed, r.Notes, text)
		}
		engine := compile(t, r)
		for range 60 {
			q := consulRequest{
				from: g.pick("shop", "api", "other"), to: g.pick("web", "db", "else"), tcp: g.IntN(4) == 0, method: g.pick("GET", "POST"),
				path: g.pick("/admin", "/admin/x", "/public/info", "/abc", "/v1/7", "/v1/{id}", "/a*", "/pay.v1.Payments/Charge", "/pay.v1.Payments/Refund"),
			}
			switch g.IntN(4) {
			case 0:
				q.lines = []string{g.pick("a", "b", "A", "ab", "a,b", "a*")}
			case 1:
				q.lines = []string{"a", "b"}
			}
			if strings.HasPrefix(q.path, "/pay.") {
				q.method = "POST"
			}
			d, source := engine.Authorize(t.Context(), q.ours()), consulAllows(entries, q)
			switch {
			case d.Verdict == policy.Allow && !source:
				t.Fatalf("seed %d: wider, by %v\nrequest: %s\n%s\n%s", seed, d, fmt.Sprintf("%+v", q), text, yamlOf(t, r))
			case d.Verdict == policy.Allow:
				agree++
			case source:
				narrower++
			default:
				denied++
			}
		}
	}
	t.Logf("both allow %d, only the source %d, both deny %d", agree, narrower, denied)
	if agree < 2*narrower {
		t.Errorf("%d requests are allowed by the source only, %d by both: the translation is too narrow", narrower, agree)
	}
}

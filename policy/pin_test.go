package policy_test

import (
	"context"
	"reflect"
	"sync"
	"testing"

	"github.com/intramesh/mesh/policy"
)

func TestPinFollowsTheRules(t *testing.T) {
	s := newSyncer(t, nil)
	r := request(t, nil)
	p := policy.Pinned(s, r)
	if d := p.Authorize(t.Context(), r); d != s.Authorize(t.Context(), r) || d.Verdict != policy.Deny {
		t.Errorf("before the first bundle: %+v", d)
	}
	for version, allows := range []bool{false, true, false, true} {
		docs := []string{doc("p", "payments", "allow", `"rules":[{"from":[{"services":["web"]}]}]`)}
		if allows {
			docs = append(docs, doc("q", "payments", "allow", allowOrders))
		}
		if err := s.Apply(signed(t, uint64(version+1), docs...)); err != nil {
			t.Fatal(err)
		}
		for _, layer := range []policy.Layer{policy.LayerConnection, policy.LayerHTTP, policy.LayerGRPC} {
			r := request(t, func(r *policy.Request) { r.Layer = layer })
			d := p.Authorize(t.Context(), r)
			if !reflect.DeepEqual(d, s.Authorize(t.Context(), r)) || d.Version != uint64(version+1) || (d.Verdict == policy.Allow) != allows {
				t.Errorf("v%d %s: %+v", version+1, layer, d)
			}
		}
	}
}

// A request that is not of the connection is decided by what it says, not by what was pinned.
func TestPinIsForItsConnectionOnly(t *testing.T) {
	e := engine(t, doc("p", "payments", "allow", `"rules":[{"from":[{"services":["orders"],"ips":["10.0.0.0/8"]}],"to":[{"ports":["web"],"paths":["/x"]},{"ports":["db"]}]}]`))
	pinned := func(r *policy.Request) { r.Port = "db" }
	p := policy.Pinned(e, request(t, pinned))
	for name, change := range map[string]func(*policy.Request){
		"the same":       func(*policy.Request) {},
		"source":         func(r *policy.Request) { r.Source = id(t, "web") },
		"no source":      func(r *policy.Request) { r.Source = id(t, "") },
		"address":        func(r *policy.Request) { r.SourceAddr = addr(t, "192.0.2.1").SourceAddr },
		"destination":    func(r *policy.Request) { r.Destination = "billing" },
		"no destination": func(r *policy.Request) { r.Destination = "" },
		"port":           func(r *policy.Request) { r.Port = "web" },
		"deferred":       func(r *policy.Request) { r.Port, r.Deferred = "web", true },
		"layer":          func(r *policy.Request) { r.Layer = 7 },
		"request":        func(r *policy.Request) { r.Layer, r.Method, r.Path, r.Host = policy.LayerHTTP, "GET", "/x", "h" },
	} {
		r := request(t, pinned)
		change(r)
		if got, want := p.Authorize(t.Context(), r), e.Authorize(t.Context(), r); got != want {
			t.Errorf("%s: %+v, not %+v", name, got, want)
		}
	}
}

func TestPinnedThenAsksOwn(t *testing.T) {
	e := engine(t, doc("p", "payments", "allow", allowOrders))
	asked := 0
	a := policy.Then(e, "own", func(context.Context, *policy.Request) policy.Decision { asked++; return policy.Decision{} })
	for range 2 {
		if d := policy.Pinned(a, request(t, nil)).Authorize(t.Context(), request(t, nil)); d.Policy != "own" {
			t.Errorf("%+v", d)
		}
	}
	if asked != 2 {
		t.Errorf("own was asked %d times", asked)
	}
	f := policy.AuthorizerFunc(func(context.Context, *policy.Request) policy.Decision { return policy.Decision{Verdict: policy.Allow} })
	if d := policy.Pinned(f, request(t, nil)).Authorize(t.Context(), request(t, nil)); d.Verdict != policy.Allow {
		t.Errorf("what can't be pinned: %+v", d)
	}
}

// Decisions by a pin go on while the rules change.
func TestPinWhileRulesChange(t *testing.T) {
	s := newSyncer(t, nil)
	p := policy.Pinned(s, request(t, nil))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := uint64(0)
			for last < 50 {
				d := p.Authorize(t.Context(), request(t, nil))
				if d.Version < last || (d.Verdict == policy.Allow) != (d.Version%2 == 1) {
					t.Errorf("after v%d: %+v", last, d)
					return
				}
				last = d.Version
			}
		})
	}
	for v := uint64(1); v <= 50; v++ {
		var docs []string
		if v%2 == 1 {
			docs = append(docs, doc("p", "payments", "allow", allowOrders))
		}
		if err := s.Apply(signed(t, v, docs...)); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

package policy_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/intramesh/mesh/policy"
)

// ruleSet makes a mesh's worth of rules: services with ten documents each, every one letting a
// caller of its own POST to two paths and call a gRPC service; and one deny for all services.
func ruleSet(b *testing.B, rules int) *policy.Engine {
	b.Helper()
	docs := parse(b, doc("no-tests", "*", "deny", `"rules":[{"from":[{"services":["test/*"]}]}]`))
	for i := range rules {
		s := fmt.Sprintf(`"rules":[{"from":[{"services":["caller-%d"]}],"to":[{"methods":["POST"],"paths":["/v1/charge","/v1/{id}/refund"]},{"grpc":["pay.v1.Payments/*"]}]}]`, i)
		docs = append(docs, parse(b, doc(fmt.Sprint("p", i), fmt.Sprintf("service-%d", i/10), "allow", s))...)
	}
	e, err := policy.Static(prod, docs...)
	if err != nil {
		b.Fatal(err)
	}
	return e
}

// BenchmarkAuthorize decides what is allowed, at accept and with HTTP fields, each time for
// another service of the mesh.
func BenchmarkAuthorize(b *testing.B) {
	for _, rules := range []int{10, 1_000, 100_000} {
		e := ruleSet(b, rules)
		requests := func(change func(*policy.Request)) []*policy.Request {
			var out []*policy.Request
			for i := 0; i < rules; i += max(1, rules/1000) {
				out = append(out, request(b, func(r *policy.Request) {
					r.Source, r.Destination = id(b, fmt.Sprintf("caller-%d", i)), fmt.Sprintf("service-%d", i/10)
					change(r)
				}))
			}
			return out
		}
		accept := requests(func(r *policy.Request) { r.Deferred = true })
		http := requests(func(r *policy.Request) {
			r.Layer, r.Method, r.Path, r.Host = policy.LayerHTTP, "POST", "/v1/1234/refund", "service"
		})
		for _, bm := range []struct {
			name string
			r    []*policy.Request
		}{{"accept", accept}, {"http", http}} {
			b.Run(fmt.Sprintf("%s/rules=%d", bm.name, rules), func(b *testing.B) {
				runtime.GC() // what the set-up left
				b.ReportAllocs()
				ctx, i := context.Background(), 0
				for b.Loop() {
					if d := e.Authorize(ctx, bm.r[i]); d.Verdict != policy.Allow {
						b.Fatal(d)
					}
					if i++; i == len(bm.r) {
						i = 0
					}
				}
			})
		}
	}
}

// BenchmarkAuthorizePinned decides for one connection by rules that were looked up when it began.
func BenchmarkAuthorizePinned(b *testing.B) {
	s := newSyncer(b, nil)
	if err := s.Apply(signed(b, 1, doc("p", "payments", "allow", `"rules":[{"from":[{"services":["orders"]}],"to":[{"methods":["POST"],"paths":["/v1/{id}/refund"]}]}]`))); err != nil {
		b.Fatal(err)
	}
	accept := request(b, func(r *policy.Request) { r.Deferred = true })
	http := request(b, func(r *policy.Request) {
		r.Deferred, r.Layer, r.Method, r.Path, r.Host = true, policy.LayerHTTP, "POST", "/v1/1234/refund", "payments"
	})
	for _, bm := range []struct {
		name string
		a    policy.Authorizer
		r    *policy.Request
	}{{"connection", policy.Pinned(s, accept), accept}, {"http", policy.Pinned(s, accept), http}, {"http/not-pinned", s, http}} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			ctx := context.Background()
			for b.Loop() {
				if d := bm.a.Authorize(ctx, bm.r); d.Verdict != policy.Allow {
					b.Fatal(d)
				}
			}
		})
	}
}

// BenchmarkAuthorizeOneService has all rules at one service, for one caller: a path each.
func BenchmarkAuthorizeOneService(b *testing.B) {
	const rules = 1000
	var list string
	for i := range rules {
		list += fmt.Sprintf(`{"from":[{"services":["orders"]}],"to":[{"methods":["GET"],"paths":["/v1/thing-%d"]}]},`, i)
	}
	e := engine(b, doc("p", "payments", "allow", `"rules":[`+list[:len(list)-1]+`]`))
	r := httpRequest(b, "GET", fmt.Sprintf("/v1/thing-%d", rules-1))
	for b.Loop() {
		if d := e.Authorize(context.Background(), r); d.Verdict != policy.Allow {
			b.Fatal(d)
		}
	}
}

// BenchmarkAuthorizeDenied is what a scanner costs.
func BenchmarkAuthorizeDenied(b *testing.B) {
	e := ruleSet(b, 1000)
	r := request(b, func(r *policy.Request) { r.Destination = "service-1" })
	for b.Loop() {
		if d := e.Authorize(context.Background(), r); d.Verdict != policy.Deny {
			b.Fatal(d)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	var docs []policy.Document
	for i := range 10_000 {
		s := fmt.Sprintf(`"rules":[{"from":[{"services":["caller-%d"]}],"to":[{"methods":["POST"],"paths":["/v1/{id}/refund"]}]}]`, i)
		docs = append(docs, parse(b, doc(fmt.Sprint("p", i), fmt.Sprintf("service-%d", i/10), "allow", s))...)
	}
	bundle := &policy.Bundle{TrustDomain: prod, Version: 1, Documents: docs}
	data, err := policy.Sign(bundle, testKey(1))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			if _, err := policy.Compile(bundle); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if _, err := policy.Open(data, publicKeys(testKey(1)), prod); err != nil {
				b.Fatal(err)
			}
		}
	})
}

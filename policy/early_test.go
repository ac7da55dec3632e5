package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/policy"
)

// early asks for a call of orders to payments, whose callee has the same rules.
func early(t testing.TB, e *policy.Engine, change func(*policy.Request)) (policy.Decision, bool) {
	t.Helper()
	return e.Early(request(t, change), e.Version())
}

func TestEarlyDeniesOnlyWhatIsSure(t *testing.T) {
	conn := func(port string) func(*policy.Request) {
		return func(r *policy.Request) { r.Port = port }
	}
	get := func(method, path string) func(*policy.Request) {
		return func(r *policy.Request) {
			r.Layer, r.Method, r.Path, r.Host = policy.LayerHTTP, method, path, "payments"
		}
	}
	call := func(method string) func(*policy.Request) {
		return func(r *policy.Request) { r.Layer, r.GRPCMethod = policy.LayerGRPC, method }
	}
	charge := doc("p", "payments", "allow", `"rules":[{"from":[{"services":["orders"]}],"to":[{"methods":["POST"],"paths":["/charge"]},{"grpc":["pay.v1.Payments/Charge"]}]}]`)
	nobody := doc("n", "payments", "allow", "")
	for name, tt := range map[string]struct {
		docs []string
		call func(*policy.Request)
		sure bool
	}{
		"no rule for the caller":                {[]string{doc("p", "payments", "allow", `"rules":[{"from":[{"services":["web"]}]}]`)}, conn(""), true},
		"no rule at all":                        {nil, conn(""), true},
		"allowed":                               {[]string{doc("p", "payments", "allow", allowOrders)}, conn(""), false},
		"allowed on another port":               {[]string{doc("p", "payments", "allow", `"rules":[{"to":[{"ports":["web"]}]}]`)}, conn(""), true},
		"some request is allowed":               {[]string{charge}, conn(""), false},
		"the request that is allowed":           {[]string{charge}, get("POST", "/charge"), false},
		"another path":                          {[]string{charge}, get("POST", "/refund"), true},
		"another method":                        {[]string{charge}, get("GET", "/charge"), true},
		"a path that is not known":              {[]string{charge}, get("POST", ""), false},
		"the gRPC call that is allowed":         {[]string{charge}, call("pay.v1.Payments/Charge"), false},
		"another gRPC method":                   {[]string{charge}, call("pay.v1.Payments/Refund"), true},
		"a gRPC call that HTTP rules allow":     {[]string{doc("p", "payments", "allow", `"rules":[{"to":[{"methods":["POST"],"paths":["/pay.v1.Payments/*"]}]}]`)}, call("pay.v1.Payments/Refund"), false},
		"a gRPC call to a host":                 {[]string{doc("p", "payments", "allow", `"rules":[{"to":[{"hosts":["payments"]}]}]`)}, call("pay.v1.Payments/Refund"), false},
		"by a header":                           {[]string{doc("p", "payments", "allow", `"rules":[{"when":[{"key":"request.header.x","values":["1"]}]}]`)}, get("GET", "/"), false},
		"without a header":                      {[]string{doc("p", "payments", "allow", `"rules":[{"when":[{"key":"request.header.x","notValues":["1"]}]}]`)}, get("GET", "/"), false},
		"by a claim":                            {[]string{anyIssuer, doc("p", "payments", "allow", `"rules":[{"when":[{"key":"request.jwt.sub","values":["ann"]}]}]`)}, get("GET", "/"), false},
		"by a claim, without an issuer":         {[]string{doc("p", "payments", "allow", `"rules":[{"when":[{"key":"request.jwt.sub","values":["ann"]}]}]`)}, get("GET", "/"), false},
		"by an address":                         {[]string{doc("p", "payments", "allow", `"rules":[{"from":[{"ips":["10.0.0.0/8"]}]}]`)}, conn(""), false},
		"by not an address":                     {[]string{doc("p", "payments", "allow", `"rules":[{"from":[{"services":["*"],"notIps":["10.0.0.0/8"]}]}]`)}, conn(""), false},
		"a deny":                                {[]string{doc("p", "*", "allow", `"rules":[{}]`), doc("d", "payments", "deny", allowOrders)}, conn(""), true},
		"a deny of a path":                      {[]string{doc("p", "*", "allow", `"rules":[{}]`), doc("d", "payments", "deny", `"rules":[{"to":[{"paths":["/admin/*"]}]}]`)}, get("GET", "/admin/x"), true},
		"a deny of another path":                {[]string{doc("p", "*", "allow", `"rules":[{}]`), doc("d", "payments", "deny", `"rules":[{"to":[{"paths":["/admin/*"]}]}]`)}, get("GET", "/x"), false},
		"a deny of a path, by connection":       {[]string{doc("p", "*", "allow", `"rules":[{}]`), doc("d", "payments", "deny", `"rules":[{"to":[{"paths":["/admin/*"]}]}]`)}, conn(""), false},
		"a deny by address":                     {[]string{doc("p", "*", "allow", `"rules":[{}]`), doc("d", "payments", "deny", `"rules":[{"from":[{"ips":["10.0.0.0/8"]}]}]`)}, conn(""), false},
		"a deny by header":                      {[]string{doc("p", "*", "allow", `"rules":[{}]`), doc("d", "payments", "deny", `"rules":[{"when":[{"key":"request.header.x","notValues":["1"]}]}]`)}, get("GET", "/"), false},
		"allowed by default":                    {[]string{of("Default", "d", `"service":"payments","verdict":"allow"`)}, conn(""), false},
		"an audit that would miss it":           {[]string{nobody, doc("a", "payments", "audit", `"rules":[{"when":[{"key":"request.header.x","values":["1"]}]}]`)}, conn(""), false},
		"an audit of others":                    {[]string{nobody, doc("a", "payments", "audit", `"rules":[{"from":[{"services":["web"]}]}]`)}, conn(""), true},
		"a dry run that would miss it":          {[]string{nobody, `{"apiVersion":"mesh/v1","kind":"Authorization","metadata":{"name":"dry"},"spec":{"service":"payments","action":"allow","mode":"dryrun","rules":[{}]}}`}, conn(""), false},
		"a caller that does not know who it is": {nil, func(r *policy.Request) { r.Source = id(t, "") }, false},
		"a layer that is none":                  {nil, func(r *policy.Request) { r.Layer = 3 }, false},
	} {
		e := engine(t, tt.docs...)
		d, sure := early(t, e, tt.call)
		if sure != tt.sure || sure && (d.Verdict != policy.Deny || d.Reason == "" || d.Version != 7 || !d.Tell) {
			t.Errorf("%s: %v, %+v", name, sure, d)
		}
		for _, other := range []uint64{0, 6, 8} {
			if _, sure := e.Early(request(t, tt.call), other); sure {
				t.Errorf("%s: sure of a callee with rules v%d", name, other)
			}
		}
	}
	if _, sure := new(policy.Engine).Early(request(t, nil), 0); sure {
		t.Error("sure without rules")
	}
}

func TestEarlyTellsNoMoreThanTheCallee(t *testing.T) {
	e := engine(t, of("Default", "say-little", `"service":"payments","denials":"bare"`), doc("d", "payments", "deny", allowOrders))
	if d, sure := early(t, e, nil); !sure || d != (policy.Decision{Rule: -1}) {
		t.Errorf("%v, %+v", sure, d)
	}
}

// TestEarlyIsNeverWrong: whatever a caller can't know turns out to be, the callee denies what Early is sure of.
func TestEarlyIsNeverWrong(t *testing.T) {
	var asked, sure int
	for seed := range uint64(4000) {
		d := dice{rand.New(rand.NewPCG(seed, 2))}
		docs := make([]policy.Document, d.IntN(4))
		for i := range docs {
			docs[i] = d.document(fmt.Sprint("p", i))
			docs[i].Spec.Action = policy.Action(d.pick("allow", "allow", "allow", "deny"))
			docs[i].Spec.Mode = ""
		}
		e, err := policy.Compile(&policy.Bundle{TrustDomain: prod, Version: 7, Documents: docs})
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			r := d.request()
			r.Deferred = true
			if r.Source.IsZero() {
				continue
			}
			asked++
			got, denied := e.Early(r, 7)
			if !denied {
				continue
			}
			sure++
			for range 30 {
				callee := d.completion(r)
				if v := e.Authorize(t.Context(), callee); v.Verdict != policy.Deny {
					rules, _ := json.MarshalIndent(docs, "", " ")
					t.Fatalf("seed %d: early %v for %+v, but %v for %+v by\n%s", seed, got, r, v, callee, rules)
				}
			}
		}
	}
	if share := float64(sure) / float64(asked); share < 0.2 || share > 0.8 {
		t.Errorf("sure of %.2f of the calls: the documents no longer tell much", share)
	}
}

// completion makes up what the callee knows besides what the caller does.
func (d dice) completion(r *policy.Request) *policy.Request {
	c := *r
	c.SourceAddr, c.Header, c.Claims = netip.Addr{}, nil, nil
	if s := d.pick("", "10.1.1.1", "10.2.0.1", "::1", "192.0.2.1"); s != "" {
		c.SourceAddr = netip.MustParseAddr(s)
	}
	fill := func() {
		other := d.request()
		c.Header, c.Claims = other.Header, other.Claims
	}
	switch r.Layer {
	case policy.LayerConnection:
		if c.Deferred = d.IntN(2) == 0; c.Deferred && d.IntN(2) == 0 { // one of its requests
			other := d.request()
			c.Layer, c.Method, c.Path, c.Host, c.GRPCMethod = other.Layer, other.Method, other.Path, other.Host, other.GRPCMethod
			fill()
		}
	case policy.LayerGRPC:
		if d.IntN(3) == 0 { // it is served as the HTTP request that it also is
			c.Layer, c.Method, c.Path, c.GRPCMethod, c.Host = policy.LayerHTTP, http.MethodPost, "/"+r.GRPCMethod, "", d.pick("a", "c", "ca")
		}
		fill()
	default:
		if c.Method == "" { // the caller knew as much
			c.Method = d.pick("GET", "POST")
		}
		if c.Path == "" {
			c.Path = d.pick("/x", "/", "/x/y")
		}
		if c.Host == "" {
			c.Host = d.pick("a", "c")
		}
		fill()
	}
	if d.IntN(6) == 0 { // it is served where connections are decided as a whole
		c = policy.Request{Source: c.Source, SourceAddr: c.SourceAddr, Destination: c.Destination, Port: c.Port}
	}
	return &c
}

func TestSyncerIsEarlyOnlyWhenFresh(t *testing.T) {
	one, two := signed(t, 1), signed(t, 2)
	gone := errors.New("control plane is gone")
	for name, tt := range map[string]struct {
		answers   []answer
		elsewhere []byte
		after     time.Duration
		callee    uint64
		sure      bool
	}{
		"the bundle came just now":                {[]answer{{data: one}}, nil, 0, 1, true},
		"the callee has newer rules":              {[]answer{{data: one}}, nil, 0, 2, false},
		"the callee is not known":                 {[]answer{{data: one}}, nil, 0, 0, false},
		"within a poll":                           {[]answer{{data: one}}, nil, 59 * time.Second, 1, true},
		"the next answer is late":                 {[]answer{{data: one}}, nil, 61 * time.Second, 1, false},
		"there is nothing newer":                  {[]answer{{data: one}, {}}, nil, 0, 1, true},
		"the control plane is gone":               {[]answer{{data: one}, {err: gone}}, nil, 0, 1, false},
		"the control plane is back":               {[]answer{{data: one}, {err: gone}, {}}, nil, time.Second, 1, true},
		"a newer bundle is refused":               {[]answer{{data: one}, {data: []byte("x")}}, nil, 0, 1, false},
		"asked again, which is no answer":         {[]answer{{err: policy.ErrFetchAgain}, {data: one}, {err: policy.ErrFetchAgain}}, nil, 59 * time.Second, 1, true},
		"asked again, and no answer for a minute": {[]answer{{data: one}, {err: policy.ErrFetchAgain}}, nil, 61 * time.Second, 1, false},
		"rules from elsewhere":                    {[]answer{{data: one}, {err: gone}}, two, 0, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &server{began: time.Now(), answers: tt.answers}
				s := newSyncer(t, func(cfg *policy.SyncConfig) {
					cfg.Fetch = srv.fetch
					cfg.FetchElsewhere = func(context.Context, policy.FetchRequest) []byte { return tt.elsewhere }
				})
				if _, sure := s.Early(request(t, nil), 1); sure {
					t.Error("sure before the first bundle")
				}
				s.Start()
				<-time.After(tt.after)
				synctest.Wait()
				if _, sure := s.Early(request(t, nil), tt.callee); sure != tt.sure {
					t.Errorf("sure: %v", sure)
				}
				if tt.elsewhere != nil && s.Version() != 2 {
					t.Errorf("v%d is in force", s.Version())
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

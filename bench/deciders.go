package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path"
	"strings"
	"sync/atomic"

	"cel.dev/cel-go/cel"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/policy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/authz"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Others that decide requests.
const (
	nameAuthz  = "grpc-go authz"
	nameCEL    = "cel-go, one rule"
	nameLinear = "a loop over the rules"
)

// decidePinned decides about each of 100 connections in turn, by rules that were looked up when it began, and are
// compared with those in force.
func decidePinned() (local, error) {
	const rules = 1_000
	e, err := policy.Static(benchDomain(), bigRules(rules)...)
	if err != nil {
		return nil, err
	}
	var current atomic.Pointer[policy.Engine]
	current.Store(e)
	requests := bigRequests(rules, func(r *policy.Request) { r.Layer, r.Deferred = policy.LayerConnection, true })[:100]
	pins := make([]policy.Authorizer, len(requests))
	for i := range requests {
		pins[i] = policy.PinTo(&current, &requests[i])
	}
	return func(n int) error {
		ctx, i := context.Background(), 0
		for range n {
			if d := pins[i].Authorize(ctx, &requests[i]); d.Verdict != policy.Allow {
				return fmt.Errorf("denied: %v", d)
			}
			if i++; i == len(pins) {
				i = 0
			}
		}
		return nil
	}, nil
}

// linearScan is what a program without an index does.
func linearScan(rules int) (local, error) {
	type rule struct{ service, caller, method, template string }
	var all []rule
	for i := range rules {
		all = append(all, rule{fmt.Sprint("service-", i/10), "spiffe://" + trustDomain + "/caller-" + fmt.Sprint(i), "POST", "/v1/*/refund"})
	}
	step := max(1, rules/1000)
	return func(n int) error {
		at := 0
		for range n {
			want, found := &all[at], false
			for i := range all {
				r := &all[i]
				if r.service == want.service && r.caller == want.caller && r.method == "POST" {
					if ok, _ := path.Match(r.template, "/v1/1234/refund"); ok {
						found = true
						break
					}
				}
			}
			if !found {
				return errors.New("denied")
			}
			if at += step; at >= rules {
				at = 0
			}
		}
		return nil
	}, nil
}

// celOneRule evaluates the one rule that applies: how to find it among the others is not cel-go's business.
func celOneRule() (local, error) {
	env, err := cel.NewEnv(cel.Variable("source", cel.StringType), cel.Variable("method", cel.StringType), cel.Variable("path", cel.StringType))
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(`source == "spiffe://` + trustDomain + `/caller-7" && method == "POST" && path.startsWith("/v1/") && path.endsWith("/refund")`)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	p, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	vars := map[string]any{"source": "spiffe://" + trustDomain + "/caller-7", "method": "POST", "path": "/v1/1234/refund"}
	return func(n int) error {
		for range n {
			out, _, err := p.Eval(vars)
			if err != nil || out.Value() != true {
				return fmt.Errorf("denied: %w", err)
			}
		}
		return nil
	}, nil
}

// grpcAuthz runs grpc-go's interceptor. It only works within a call, so that one is made, and the handler runs it n times.
func grpcAuthz(rules int) (local, error) {
	type rule struct {
		Name    string                        `json:"name"`
		Source  struct{ Principals []string } `json:"source"`
		Request struct{ Paths []string }      `json:"request"`
	}
	var doc struct {
		Name  string `json:"name"`
		Allow []rule `json:"allow_rules"`
	}
	doc.Name = "bench"
	for i := range rules {
		r := rule{Name: fmt.Sprint("p", i)}
		r.Source.Principals = []string{"spiffe://" + trustDomain + "/" + fmt.Sprint("caller-", i)}
		r.Request.Paths = []string{fmt.Sprintf("/bench.v1.Service%d/*", i/10)}
		if i == rules/2 { // on average half of the rules are looked at
			r.Source.Principals, r.Request.Paths = []string{"spiffe://" + trustDomain + "/" + clientName}, []string{"/bench.v1.Echo/*"}
		}
		doc.Allow = append(doc.Allow, r)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	interceptor, err := authz.NewStatic(strings.NewReplacer(`"Principals"`, `"principals"`, `"Paths"`, `"paths"`).Replace(string(text)))
	if err != nil {
		return nil, err
	}
	times := make(chan int, 1)
	cc, err := grpcWithin(func(ctx context.Context) error {
		for range <-times {
			_, err := interceptor.UnaryInterceptor(ctx, nil, &grpc.UnaryServerInfo{FullMethod: echoMethod},
				func(context.Context, any) (any, error) { return nil, nil })
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return func(n int) error {
		times <- n
		return cc.Invoke(context.Background(), echoMethod, wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
	}, nil
}

// within is a gRPC service whose only method runs a function.
type within func(ctx context.Context) error

func (f within) Echo(ctx context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	return in, f(ctx)
}

// grpcWithin serves f over mTLS, and returns a channel that calls it. Both last until the program ends.
func grpcWithin(f within) (*grpc.ClientConn, error) {
	ca, err := testca.New(benchDomain())
	if err != nil {
		return nil, err
	}
	var ends [2]*tls.Config
	for i, name := range []string{serverName, clientName} {
		svid, err := ca.SVID(name)
		if err != nil {
			return nil, err
		}
		ends[i] = goSPIFFE(material{svid, ca.Bundle()}).server(alpn(svcGRPC))
		if name == clientName {
			ends[i] = goSPIFFE(material{svid, ca.Bundle()}).client(alpn(svcGRPC))
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a local address
	if err != nil {
		return nil, err
	}
	go serveEcho(grpc.NewServer(grpc.Creds(credentials.NewTLS(ends[0]))), f, ln)
	return grpc.NewClient("passthrough:///"+ln.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(ends[1])))
}

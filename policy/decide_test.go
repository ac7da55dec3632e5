package policy_test

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/intramesh/mesh/policy"
)

// request builds a Request from orders at 10.1.2.3 to payments, then lets f change it.
func request(t testing.TB, f func(*policy.Request)) *policy.Request {
	t.Helper()
	r := &policy.Request{
		Source: id(t, "orders"), SourceAddr: netip.MustParseAddr("10.1.2.3"), Destination: "payments",
		Header: http.Header{},
	}
	if f != nil {
		f(r)
	}
	return r
}

func source(t testing.TB, s string) *policy.Request {
	return request(t, func(r *policy.Request) { r.Source = id(t, s) })
}

func addr(t testing.TB, s string) *policy.Request {
	return request(t, func(r *policy.Request) {
		r.SourceAddr = netip.Addr{}
		if s != "" {
			r.SourceAddr = netip.MustParseAddr(s)
		}
	})
}

func httpRequest(t testing.TB, method, path string) *policy.Request {
	return request(t, func(r *policy.Request) {
		r.Layer, r.Method, r.Path, r.Host = policy.LayerHTTP, method, path, "payments"
	})
}

func grpcCall(t testing.TB, method string) *policy.Request {
	return request(t, func(r *policy.Request) { r.Layer, r.GRPCMethod = policy.LayerGRPC, method })
}

func header(t testing.TB, lines ...string) *policy.Request {
	r := httpRequest(t, "GET", "/")
	if len(lines) > 0 {
		r.Header["X-Tenant"] = lines
	}
	return r
}

func deferred(t testing.TB) *policy.Request {
	return request(t, func(r *policy.Request) { r.Deferred = true })
}

func port(t testing.TB, p string) *policy.Request {
	return request(t, func(r *policy.Request) { r.Port = p })
}

// TestRule decides one rule as an allow and as a deny; "matches" columns differ where
// something is unavailable, or comes more than once.
func TestRule(t *testing.T) {
	const yes, no = true, false
	const orders = `{"from":[{"services":["orders"]}]}`
	const many = `{"from":[{"services":["s1","s2","s3","s4","x/*","s5","s6","s7","s8","s9","s10","s1"]}]}`
	tests := []struct {
		name, rule  string
		r           *policy.Request
		allow, deny bool // does it match as that action
	}{
		{"empty rule", `{}`, request(t, nil), yes, yes},
		{"empty rule, no identity", `{}`, source(t, ""), yes, yes},

		{"service", orders, source(t, "orders"), yes, yes},
		{"other service", orders, source(t, "invoices"), no, no},
		{"longer service", orders, source(t, "orders-evil"), no, no},
		{"shorter service", orders, source(t, "order"), no, no},
		{"service below", orders, source(t, "orders/x"), no, no},
		{"service above", orders, source(t, "x/orders"), no, no},
		{"service, other case", orders, source(t, "spiffe://prod.example/Orders"), no, no},
		{"service of another trust domain", orders, source(t, "spiffe://prod.example.evil/orders"), no, no},
		{"service of a shorter trust domain", orders, source(t, "spiffe://prod/orders"), no, no},
		{"service, no identity", orders, source(t, ""), no, yes},
		{"service, identity without path", orders, source(t, "spiffe://prod.example"), no, yes},
		{"dot is a dot", `{"from":[{"services":["a.b"]}]}`, source(t, "axb"), no, no},
		{"dots", `{"from":[{"services":["ns/a/sa/b.c"]}]}`, source(t, "ns/a/sa/b.c"), yes, yes},
		{"prefix", `{"from":[{"services":["checkout/*"]}]}`, source(t, "checkout/web"), yes, yes},
		{"prefix, deep", `{"from":[{"services":["checkout/*"]}]}`, source(t, "checkout/web/a"), yes, yes},
		{"prefix is not the service", `{"from":[{"services":["checkout/*"]}]}`, source(t, "checkout"), no, no},
		{"prefix, look-alike", `{"from":[{"services":["checkout/*"]}]}`, source(t, "checkout-evil/web"), no, no},
		{"prefix, other trust domain", `{"from":[{"services":["checkout/*"]}]}`, source(t, "spiffe://evil/checkout/web"), no, no},
		{"any service", `{"from":[{"services":["*"]}]}`, source(t, "x"), yes, yes},
		{"any service, none", `{"from":[{"services":["*"]}]}`, source(t, ""), no, yes},
		{"any service, no path", `{"from":[{"services":["*"]}]}`, source(t, "spiffe://prod.example"), no, yes},
		{"any service means ours", `{"from":[{"services":["*"]}]}`, source(t, "spiffe://evil/x"), no, no},
		{"second source", `{"from":[{"services":["a"]},{"services":["b","orders"]}]}`, request(t, nil), yes, yes},
		{"fields are and", `{"from":[{"services":["orders"],"ips":["192.168.0.0/16"]}]}`, request(t, nil), no, no},
		{"fields are and, or next", `{"from":[{"services":["orders"],"ips":["192.168.0.0/16"]},{"services":["orders"]}]}`, request(t, nil), yes, yes},

		{"one of many", many, source(t, "s7"), yes, yes},
		{"one of many, by prefix", many, source(t, "x/y"), yes, yes},
		{"one of many, none", many, source(t, "s99"), no, no},
		{"one of many, other trust domain", many, source(t, "spiffe://evil/s7"), no, no},

		{"not service", `{"from":[{"notServices":["evil"]}]}`, source(t, "orders"), yes, yes},
		{"not service, it is", `{"from":[{"notServices":["orders"]}]}`, source(t, "orders"), no, no},
		{"not service, by prefix", `{"from":[{"services":["*"],"notServices":["a/*"]}]}`, source(t, "a/b"), no, no},
		{"not service, no identity", `{"from":[{"notServices":["evil"]}]}`, source(t, ""), no, yes},
		{"not service, no path", `{"from":[{"notServices":["evil"]}]}`, source(t, "spiffe://prod.example"), no, yes},
		{"not service but one", `{"from":[{"services":["a/*"],"notServices":["a/b"]}]}`, source(t, "a/c"), yes, yes},

		{"trust domain", `{"from":[{"trustDomains":["prod.example"]}]}`, request(t, nil), yes, yes},
		{"trust domain, longer", `{"from":[{"trustDomains":["prod.example"]}]}`, source(t, "spiffe://prod.example.evil/orders"), no, no},
		{"trust domain, none", `{"from":[{"trustDomains":["prod.example"]}]}`, source(t, ""), no, yes},
		{"trust domain opens names", `{"from":[{"services":["orders"],"trustDomains":["b.example"]}]}`, source(t, "spiffe://b.example/orders"), yes, yes},
		{"trust domain replaces ours", `{"from":[{"services":["orders"],"trustDomains":["b.example"]}]}`, source(t, "orders"), no, no},
		{"any trust domain", `{"from":[{"services":["orders"],"trustDomains":["*"]}]}`, source(t, "spiffe://b.example/orders"), yes, yes},
		{"not trust domain", `{"from":[{"notTrustDomains":["prod.example"]}]}`, request(t, nil), no, no},
		{"not trust domain, other", `{"from":[{"notTrustDomains":["prod.example"]}]}`, source(t, "spiffe://b.example/orders"), yes, yes},
		{"not trust domain, none", `{"from":[{"notTrustDomains":["b.example"]}]}`, source(t, ""), no, yes},

		{"ip", `{"from":[{"ips":["10.0.0.0/8"]}]}`, addr(t, "10.1.2.3"), yes, yes},
		{"ip, one", `{"from":[{"ips":["10.1.2.3"]}]}`, addr(t, "10.1.2.3"), yes, yes},
		{"ip, other", `{"from":[{"ips":["10.1.2.3"]}]}`, addr(t, "10.1.2.30"), no, no},
		{"ip, 4 in 6", `{"from":[{"ips":["10.0.0.0/8"]}]}`, addr(t, "::ffff:10.1.2.3"), yes, yes},
		{"ip, 4 in 6 rule", `{"from":[{"ips":["::ffff:10.0.0.0/104"]}]}`, addr(t, "10.1.2.3"), yes, yes},
		{"ip, 4 in 6 both", `{"from":[{"ips":["::ffff:10.1.2.3"]}]}`, addr(t, "::ffff:10.1.2.3"), yes, yes},
		{"ip, zone", `{"from":[{"ips":["fe80::/10"]}]}`, addr(t, "fe80::1%eth0"), yes, yes},
		{"ip, all IPv6 is not IPv4", `{"from":[{"ips":["::/0"]}]}`, addr(t, "::ffff:10.1.2.3"), no, no},
		{"ip, none", `{"from":[{"ips":["0.0.0.0/0"]}]}`, addr(t, ""), no, yes},
		{"not ip", `{"from":[{"notIps":["10.0.0.0/8"]}]}`, addr(t, "::ffff:10.1.2.3"), no, no},
		{"not ip, other", `{"from":[{"notIps":["10.0.0.0/8"]}]}`, addr(t, "11.0.0.1"), yes, yes},
		{"not ip, none", `{"from":[{"notIps":["10.0.0.0/8"]}]}`, addr(t, ""), no, yes},
		{"condition ip", `{"when":[{"key":"source.ip","values":["10.0.0.0/8"],"notValues":["10.1.0.0/16"]}]}`, addr(t, "10.2.0.1"), yes, yes},
		{"condition ip, out", `{"when":[{"key":"source.ip","values":["10.0.0.0/8"],"notValues":["10.1.0.0/16"]}]}`, addr(t, "10.1.0.1"), no, no},
		{"condition ip, none", `{"when":[{"key":"source.ip","notValues":["10.1.0.0/16"]}]}`, addr(t, ""), no, yes},

		{"port", `{"to":[{"ports":["admin"]}]}`, port(t, "admin"), yes, yes},
		{"port, default", `{"to":[{"ports":["admin"]}]}`, port(t, ""), no, no},
		{"default port", `{"to":[{"ports":[""]}]}`, port(t, ""), yes, yes},
		{"default port, other", `{"to":[{"ports":[""]}]}`, port(t, "admin"), no, no},
		{"any port", `{"to":[{"ports":["*"]}]}`, port(t, ""), yes, yes},
		{"port suffix", `{"to":[{"ports":["*-admin"]}]}`, port(t, "db-admin"), yes, yes},
		{"condition port", `{"when":[{"key":"destination.port","notValues":["admin"]}]}`, port(t, ""), yes, yes},
		{"condition port, out", `{"when":[{"key":"destination.port","notValues":["admin"]}]}`, port(t, "admin"), no, no},

		{"method", `{"to":[{"methods":["POST"]}]}`, httpRequest(t, "POST", "/"), yes, yes},
		{"method, other", `{"to":[{"methods":["GET"]}]}`, httpRequest(t, "HEAD", "/"), no, no},
		{"method, as sent", `{"to":[{"methods":["POST"]}]}`, httpRequest(t, "post", "/"), no, no},
		{"method, missing", `{"to":[{"methods":["*"]}]}`, httpRequest(t, "", "/"), no, yes},
		{"method, connection", `{"to":[{"methods":["POST"]}]}`, request(t, nil), no, yes},
		{"method, gRPC", `{"to":[{"methods":["POST"]}]}`, grpcCall(t, "a.B/C"), no, yes},
		{"any method, connection", `{"to":[{"methods":["*"]}]}`, request(t, nil), no, yes},
		{"host", `{"to":[{"hosts":["payments"]}]}`, httpRequest(t, "GET", "/"), yes, yes},
		{"host suffix", `{"to":[{"hosts":["*.example"]}]}`, httpRequest(t, "GET", "/"), no, no},
		{"port of the connection counts", `{"to":[{"ports":["admin"],"paths":["/x"]}]}`, request(t, nil), no, no},
		{"one operation of two", `{"to":[{"ports":["admin"],"paths":["/x"]},{"ports":[""]}]}`, request(t, nil), yes, yes},

		{"grpc", `{"to":[{"grpc":["pay.v1.Payments/Charge"]}]}`, grpcCall(t, "pay.v1.Payments/Charge"), yes, yes},
		{"grpc, other", `{"to":[{"grpc":["pay.v1.Payments/Charge"]}]}`, grpcCall(t, "pay.v1.Payments/ChargeAll"), no, no},
		{"grpc service", `{"to":[{"grpc":["pay.v1.Payments/*"]}]}`, grpcCall(t, "pay.v1.Payments/Charge"), yes, yes},
		{"grpc service, longer", `{"to":[{"grpc":["pay.v1.Payments/*"]}]}`, grpcCall(t, "pay.v1.PaymentsAdmin/Charge"), no, no},
		{"grpc with its slash", `{"to":[{"grpc":["*"]}]}`, grpcCall(t, "/pay.v1.Payments/Charge"), no, yes},
		{"grpc, connection", `{"to":[{"grpc":["*"]}]}`, request(t, nil), no, yes},
		{"grpc, HTTP", `{"to":[{"grpc":["*"]}]}`, httpRequest(t, "POST", "/a.B/C"), no, yes},
		{"grpc and path", `{"to":[{"grpc":["*"],"paths":["/*"]}]}`, grpcCall(t, "a.B/C"), no, yes},

		{"header", tenant(`"values":["a"]`), header(t, "a"), yes, yes},
		{"header, other", tenant(`"values":["a"]`), header(t, "b"), no, no},
		{"header, absent", tenant(`"values":["a"]`), header(t), no, no},
		{"header, absent, any", tenant(`"values":["*"]`), header(t), no, no},
		{"header, empty, any", tenant(`"values":["*"]`), header(t, ""), yes, yes},
		{"header, empty value", tenant(`"values":[""]`), header(t, ""), yes, yes},
		{"header, absent is not empty", tenant(`"values":[""]`), header(t), no, no},
		{"header, not", tenant(`"notValues":["a"]`), header(t, "b"), yes, yes},
		{"header, not, it is", tenant(`"notValues":["a"]`), header(t, "a"), no, no},
		{"header, not, absent", tenant(`"notValues":["a"]`), header(t), yes, yes},
		{"header, not any, absent", tenant(`"notValues":["*"]`), header(t), yes, yes},
		{"header, not any, present", tenant(`"notValues":["*"]`), header(t, ""), no, no},
		{"header, both absent", tenant(`"values":["a*"],"notValues":["ab"]`), header(t), no, no},
		{"header twice, one fits", tenant(`"values":["a"]`), header(t, "a", "b"), no, yes},
		{"header twice, last fits", tenant(`"values":["a"]`), header(t, "b", "a"), no, yes},
		{"header twice, both fit", tenant(`"values":["a","b"]`), header(t, "a", "b"), yes, yes},
		{"header twice, not, one fits", tenant(`"notValues":["a"]`), header(t, "a", "b"), no, yes},
		{"header twice, not, both in", tenant(`"notValues":["a","b"]`), header(t, "a", "b"), no, no},
		{"header twice, each by both lists", tenant(`"values":["a*"],"notValues":["ab"]`), header(t, "ab", "x"), no, no},
		{"header, an element", tenant(`"values":["a"]`), header(t, "b, a"), no, yes},
		{"header, an element among spaces", tenant(`"values":["a"]`), header(t, "b \t, \ta\t"), no, yes},
		{"header, no element", tenant(`"values":["a"]`), header(t, "ab,ba"), no, no},
		{"header, an empty element", tenant(`"values":[""]`), header(t, "b,"), no, yes},
		{"header, elements by prefix", tenant(`"values":["a*"]`), header(t, "a1, a2"), yes, yes},
		{"header, one element not by prefix", tenant(`"values":["a*"]`), header(t, "a1, b"), no, yes},
		{"header, a comma in the value", tenant(`"values":["a, b"]`), header(t, "a, b"), yes, yes},
		{"header, a comma in many values", tenant(`"values":["1","2","3","4","5","6","7","8","a, b"]`), header(t, "a, b"), yes, yes},
		{"header, not, an element", tenant(`"notValues":["b"]`), header(t, "a, b"), no, yes},
		{"header, not, no element", tenant(`"notValues":["b"]`), header(t, "a, c"), yes, yes},
		{"header, not, elements by prefix", tenant(`"notValues":["a*"]`), header(t, "a1, b"), no, yes},
		{"header, not, a comma in the value", tenant(`"notValues":["a, b"]`), header(t, "a, b"), no, no},
		{"header, both, an element", tenant(`"values":["a*"],"notValues":["ab"]`), header(t, "a, ab"), no, yes},
		{"header, a thousand elements", tenant(`"values":["a*"]`), header(t, strings.Repeat("a,", 999)+"a"), yes, yes},
		{"header, more of them", tenant(`"values":["a*"]`), header(t, strings.Repeat("a,", 1000)+"a"), no, yes},
		{"header, more of them, not", tenant(`"notValues":["b"]`), header(t, strings.Repeat("b,", 1000)+"b"), no, yes},
		{"header, more lines", tenant(`"values":["a*"]`), header(t, slices.Repeat([]string{"a"}, 1001)...), no, yes},
		{"header, connection", tenant(`"values":["a"]`), request(t, nil), no, yes},
		{"header, not, connection", tenant(`"notValues":["a"]`), request(t, nil), no, yes},
		{"header, none given", tenant(`"notValues":["a"]`), request(t, func(r *policy.Request) { r.Layer, r.Header = policy.LayerHTTP, nil }), no, yes},
		{"metadata, lower case", tenant(`"values":["a"]`), request(t, func(r *policy.Request) {
			r.Layer, r.GRPCMethod, r.Header = policy.LayerGRPC, "a.B/C", http.Header{"x-tenant": {"a"}}
		}), yes, yes},
		{"metadata, both cases", tenant(`"values":["a"]`), request(t, func(r *policy.Request) {
			r.Layer, r.GRPCMethod, r.Header = policy.LayerGRPC, "a.B/C", http.Header{"x-tenant": {"a"}, "X-Tenant": {"b"}}
		}), no, yes},
		{"conditions are and", `{"when":[{"key":"source.ip","values":["10.0.0.0/8"]},{"key":"destination.port","values":["admin"]}]}`, request(t, nil), no, no},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			allow := engine(t, doc("p", "payments", "allow", `"rules":[`+tt.rule+`]`))
			if d := allow.Authorize(t.Context(), tt.r); (d.Verdict == policy.Allow) != tt.allow {
				t.Errorf("as an allow: %v", d)
			}
			deny := engine(t, doc("all", "payments", "allow", `"rules":[{}]`), doc("p", "payments", "deny", `"rules":[`+tt.rule+`]`))
			if d := deny.Authorize(t.Context(), tt.r); (d.Verdict == policy.Deny) != tt.deny {
				t.Errorf("as a deny: %v", d)
			}
		})
	}
}

func tenant(lists string) string {
	return `{"when":[{"key":"request.header.x-tenant",` + lists + `}]}`
}

func TestPaths(t *testing.T) {
	tests := []struct {
		pattern  string
		yes, not []string
	}{
		{"/charge", []string{"/charge"}, []string{"/", "/charge/", "/Charge", "/charged", "/x/charge"}},
		{"/v1/*", []string{"/v1/", "/v1/a", "/v1/a/b"}, []string{"/v1", "/v10/", "/V1/a"}},
		{"/v1*", []string{"/v1", "/v10", "/v1/a"}, []string{"/v", "/a/v1"}},
		{"*.txt", []string{"/a.txt", "/a/b.txt"}, []string{"/a.txt/", "/atxt"}},
		{"*", []string{"/", "/a/b"}, nil},
		{"/", []string{"/"}, []string{"/a"}},
		{"/v1/{id}/refund", []string{"/v1/7/refund", "/v1/{id}/refund"}, []string{"/v1//refund", "/v1/refund", "/v1/7/8/refund", "/v1/7/refund/", "/v1/7/refunds"}},
		{"/{a}", []string{"/x"}, []string{"/", "/x/", "/x/y"}},
		{"/{a}/", []string{"/x/"}, []string{"/x", "/x/y", "//"}},
		{"/files/{p...}", []string{"/files/", "/files/a", "/files/a/b/"}, []string{"/files", "/filesx/a"}},
		{"/{p...}", []string{"/", "/a/b"}, nil},
		{"/{t}/x/{p...}", []string{"/a/x/", "/a/x/b/c"}, []string{"/a/x", "/a/y/b", "//x/b"}},
	}
	for _, tt := range tests {
		e := engine(t, doc("p", "payments", "allow", `"rules":[{"to":[{"paths":["`+tt.pattern+`"]}]}]`))
		for _, p := range tt.yes {
			if d := e.Authorize(t.Context(), httpRequest(t, "GET", p)); d.Verdict != policy.Allow {
				t.Errorf("%s does not match %s: %v", tt.pattern, p, d)
			}
		}
		// A path that is none is not known, not a path that a pattern might match.
		for _, p := range append(tt.not, "", "*", "charge", "v1/x") {
			if d := e.Authorize(t.Context(), httpRequest(t, "GET", p)); d.Verdict != policy.Deny {
				t.Errorf("%s matches %s: %v", tt.pattern, p, d)
			}
		}
	}
}

func TestManyValuesMatchAsFewDo(t *testing.T) {
	e := engine(t, doc("p", "payments", "allow",
		`"rules":[{"to":[{"methods":["A","B","C","D","E","F","G","H","I","J","X-*"]}]}]`))
	for m, want := range map[string]policy.Verdict{"A": policy.Allow, "J": policy.Allow, "X-1": policy.Allow, "K": policy.Deny, "AB": policy.Deny} {
		if d := e.Authorize(t.Context(), httpRequest(t, m, "/")); d.Verdict != want {
			t.Errorf("%s: %v", m, d)
		}
	}
}

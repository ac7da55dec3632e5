package policy_test

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/intramesh/mesh/policy"
)

// FuzzMatch: a pattern of any text, if it is accepted, and a request of any text: the engine does not panic, and says what the naive
// evaluator says.
func FuzzMatch(f *testing.F) {
	for _, s := range []string{"/admin", "/v1/*", "*.txt", "/a/{b}/{c...}", "*", "a.B/*", "POST", "payments", "", "/{a", "*a*", "\xff", "/\u202e"} {
		for _, v := range []string{"/admin", "/v1/x", "/a//c", "a.B/C", "/a.B/C", "POST", "payments", "", "*"} {
			f.Add(s, v)
		}
	}
	f.Fuzz(func(t *testing.T, pattern, value string) {
		quoted, err := json.Marshal(pattern)
		if err != nil {
			t.Fatal(err)
		}
		q := string(quoted)
		for _, rule := range []string{
			`{"to":[{"paths":[` + q + `]}]}`, `{"to":[{"methods":[` + q + `]}]}`, `{"to":[{"hosts":[` + q + `]}]}`, `{"to":[{"grpc":[` + q + `]}]}`,
			`{"to":[{"ports":[` + q + `]}]}`, `{"when":[{"key":"request.header.x","values":[` + q + `]}]}`,
			`{"when":[{"key":"request.header.x","notValues":[` + q + `]}]}`, `{"from":[{"services":[` + q + `]}]}`, `{"from":[{"ips":[` + q + `]}]}`,
		} {
			for _, action := range []policy.Action{policy.ActionAllow, policy.ActionDeny} {
				docs, err := policy.Parse("", []byte(doc("p", "payments", action, `"rules":[`+rule+`]`)))
				if err != nil {
					continue
				}
				e, err := policy.Static(prod, docs...)
				if err != nil {
					t.Fatal(err)
				}
				for layer := policy.LayerConnection; layer <= policy.LayerGRPC; layer++ {
					r := request(t, func(r *policy.Request) {
						r.Layer, r.Port, r.Header = layer, value, http.Header{"X": {value}}
						switch layer {
						case policy.LayerHTTP:
							r.Method, r.Path, r.Host = value, value, value
						case policy.LayerGRPC:
							r.GRPCMethod = value
						}
					})
					got := e.Authorize(t.Context(), r)
					if strings.Contains(rule, `"hosts"`) && strings.Contains(pattern, ":") {
						continue // an IPv6 address has many texts
					}
					n := naive{prod.Name(), docs}
					if want, byDefault := n.decide(r); got.Verdict != want || (got.Rule < 0) != byDefault {
						t.Errorf("%s of %s, value %q at %v: %v, want %v (by default: %v)", action, rule, value, layer, got, want, byDefault)
					}
				}
			}
		}
	})
}

// TestHostileInputIsCheap bounds what reading a text may allocate, whatever is in it. What a member reads is bounded in size
// (internal/wire), and by that in memory.
func TestHostileInputIsCheap(t *testing.T) {
	const size = 1 << 17
	fill := func(s string) []byte { return []byte(strings.Repeat(s, size/len(s))) }
	for name, input := range map[string][]byte{
		"documents":      fill(`{}`),
		"arrays":         fill(`[]`),
		"open arrays":    fill(`[`),
		"open objects":   fill(`{"a":`),
		"an array":       append(append([]byte(`[`), fill(`1,`)...), "1]"...),
		"nulls":          append(append([]byte(`[`), fill(`null,`)...), "null]"...),
		"one key":        append(append([]byte(`{`), fill(`"a":1,`)...), `"a":1}`...),
		"a string":       append(append([]byte(`"`), fill(`a`)...), '"'),
		"escapes":        append(append([]byte(`"`), fill(`\u00e9`)...), '"'),
		"a number":       fill("9"),
		"an exponent":    []byte("1e" + strings.Repeat("9", size)),
		"spaces":         fill(" "),
		"lines":          fill("\n"),
		"NUL":            fill("\x00"),
		"not UTF-8":      fill("\xff"),
		"problems":       fill(doc("p", "UPPER", "permit", `"rules":[{"from":[{"ips":["x"]}]}]`)),
		"empty sources":  []byte(doc("p", "x", "allow", `"rules":[`+strings.TrimSuffix(string(fill(`{"from":[{}]},`)), ",")+`]`)),
		"unknown fields": []byte(doc("p", "x", "allow", `"rules":[`+strings.TrimSuffix(string(fill(`{"x":1},`)), ",")+`]`)),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := policy.Parse("f", input)
			runtime.ReadMemStats(&after)
			if err == nil && name != "spaces" && name != "lines" && name != "arrays" {
				t.Error("it was accepted")
			}
			if perByte := float64(after.TotalAlloc-before.TotalAlloc) / float64(len(input)); perByte > 250 {
				t.Errorf("%.0f bytes for each byte of input", perByte)
			} else {
				t.Logf("%.0f bytes for each byte of input", perByte)
			}
			if err != nil && len(err.Error()) > 100_000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

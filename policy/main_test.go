package policy_test

import (
	"encoding/json"
	"testing"

	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var prod = spiffeid.RequireTrustDomainFromString("prod.example")

// id is "orders" of prod.example, or any SPIFFE ID in full; "" is the zero ID.
func id(t testing.TB, s string) spiffeid.ID {
	t.Helper()
	if s == "" {
		return spiffeid.ID{}
	}
	parsed, err := spiffeid.FromString(s)
	if err != nil {
		parsed, err = spiffeid.FromPath(prod, "/"+s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// doc returns a document; spec is the JSON of its spec without service and action.
func doc(name, service string, action policy.Action, spec string) string {
	if spec != "" {
		spec = "," + spec
	}
	quoted, _ := json.Marshal(service)
	return `{"apiVersion":"mesh/v1","kind":"Authorization","metadata":{"name":"` + name + `"},` +
		`"spec":{"service":` + string(quoted) + `,"action":"` + string(action) + `"` + spec + `}}`
}

func engine(t testing.TB, documents ...string) *policy.Engine {
	t.Helper()
	e, err := policy.Compile(&policy.Bundle{TrustDomain: prod, Version: 7, Documents: parse(t, documents...)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func parse(t testing.TB, documents ...string) []policy.Document {
	t.Helper()
	var docs []policy.Document
	for _, d := range documents {
		one, err := policy.Parse("test.json", []byte(d))
		if err != nil {
			t.Fatalf("%v\nin %s", err, d)
		}
		docs = append(docs, one...)
	}
	return docs
}

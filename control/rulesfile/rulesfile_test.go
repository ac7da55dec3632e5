package rulesfile_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/rulesfile"
	"github.com/intramesh/mesh/policy"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const good = `# who may call payments
apiVersion: mesh/v1
kind: Authorization
metadata: {name: payments-callers, labels: {team: billing}}
spec:
  service: payments
  action: allow
  rules:
  - from:
    - services: [orders, "checkout/*"]
    to:
    - methods: [POST]
      paths: ["/charge", "/v1/{id}/refund"]
---
apiVersion: mesh/v1
kind: Authorization
metadata:
  name: nobody
spec: {service: ledger, action: deny, mode: dryrun, rules: [{}]}
---
`

func TestYAMLIsJSON(t *testing.T) {
	docs, err := rulesfile.Parse("rules.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != 2 || docs[0].Metadata.Name != "payments-callers" || docs[0].Spec.Rules[0].To[0].Paths[1] != "/v1/{id}/refund" {
		t.Fatalf("%+v", docs)
	}
	asJSON, err := json.Marshal(docs)
	if err != nil {
		t.Fatal(err)
	}
	again, err := rulesfile.Parse("rules.json", asJSON)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(docs, again) {
		t.Errorf("as JSON:\n%+v\nas YAML:\n%+v", again, docs)
	}
	if docs, err := rulesfile.Parse("flow", []byte(`{apiVersion: mesh/v1, kind: Authorization, metadata: {name: "a"}, spec: {service: b, action: deny}}`)); err != nil || len(docs) != 1 {
		t.Errorf("a flow mapping: %+v, %v", docs, err)
	}
}

func TestErrorsTellThePlace(t *testing.T) {
	replace := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in the file", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	for name, c := range map[string]struct{ file, at, says string }{
		"unknown field":  {replace("methods: [POST]", "method: [POST]"), "12:7", "method"},
		"duplicate key":  {replace("  action: allow\n", "  action: allow\n  action: deny\n"), "8:3", "action"},
		"duplicate name": {replace("name: nobody", "name: payments-callers"), "18:9", "payments-callers"},
		"number":         {replace("service: payments", "service: 80"), "6:12", "string"},
		"bool":           {replace("service: payments", "service: yes"), "", ""},
		"alias":          {replace("[POST]", "[&x POST, *x]"), "12:26", "alias"},
		"tag":            {replace("service: payments", "service: !!str payments"), "6:12", "tag"},
		"merge":          {replace("  action: allow\n", "  <<: {action: allow}\n"), "7:3", "<<"},
		"tab":            {replace("  action: allow", "\taction: allow"), "7:", ""},
		"unclosed":       {replace("[POST]", "[POST"), "", ""},
		"key of a list":  {replace("service: payments", "[a]: b"), "6:3", "key"},
		"nothing":        {"---\n", "1:1", "no documents"},
		"a string":       {"hello", "1:1", "object"},
		"half JSON":      {`{"apiVersion": "mesh/v1", "kind"`, "1:", ""},
	} {
		t.Run(name, func(t *testing.T) {
			docs, err := rulesfile.Parse("f.yaml", []byte(c.file))
			if name == "bool" && err == nil { // YAML 1.2: a string
				return
			}
			if _, ok := errors.AsType[*policy.ParseError](err); !ok {
				t.Fatalf("%+v, %v", docs, err)
			}
			if !strings.HasPrefix(err.Error(), "f.yaml:"+c.at) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want it at %s, saying %q", err, c.at, c.says)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`[{"apiVersion":"mesh/v1"}]`))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := rulesfile.Parse("f", data)
		if err != nil {
			return
		}
		out, err := json.Marshal(docs)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := policy.Parse("f", out); err != nil || !reflect.DeepEqual(docs, again) {
			t.Errorf("%s\nread back as %+v, %v", out, again, err)
		}
	})
}

package policy_test

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/intramesh/mesh/policy"
)

type schema struct {
	Properties           map[string]schema `json:"properties"`
	AdditionalProperties any               `json:"additionalProperties"`
	Required             []string          `json:"required"`
	Defs                 map[string]schema `json:"$defs"`
	MaxItems             int               `json:"maxItems"`
	MaxLength            int               `json:"maxLength"`
	MaxProperties        int               `json:"maxProperties"`
}

// The schema has the fields that the Go types have, and no others; and the same limits.
func TestSchemaHasTheFieldsOfTheTypes(t *testing.T) {
	var s schema
	if err := json.Unmarshal([]byte(policy.Schema()), &s); err != nil {
		t.Fatal(err)
	}
	for name, typ := range map[string]reflect.Type{
		"metadata": reflect.TypeFor[policy.Metadata](), "authorization": reflect.TypeFor[policy.Spec](), "rule": reflect.TypeFor[policy.Rule](),
		"source": reflect.TypeFor[policy.Source](), "operation": reflect.TypeFor[policy.Operation](), "condition": reflect.TypeFor[policy.Condition](),
		"default": reflect.TypeFor[policy.DefaultSpec](), "tokenIssuer": reflect.TypeFor[policy.TokenIssuerSpec](),
	} {
		var want []string
		for f := range typ.Fields() {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			want = append(want, tag)
		}
		slices.Sort(want)
		def := s.Defs[name]
		if got := slices.Sorted(maps.Keys(def.Properties)); !slices.Equal(got, want) || def.AdditionalProperties != false {
			t.Errorf("%s has the fields %q, the type has %q", name, got, want)
		}
	}
	rule := s.Defs["rule"].Properties
	for what, pair := range map[string][2]int{
		"rules": {s.Defs["authorization"].Properties["rules"].MaxItems, policy.MaxRules}, "from": {rule["from"].MaxItems, policy.MaxEntries},
		"to": {rule["to"].MaxItems, policy.MaxEntries}, "when": {rule["when"].MaxItems, policy.MaxEntries}, "values": {s.Defs["values"].MaxItems, policy.MaxValues},
		"a value": {s.Defs["value"].MaxLength, policy.MaxValueLen}, "labels": {s.Defs["metadata"].Properties["labels"].MaxProperties, policy.MaxLabels},
		"keys": {s.Defs["tokenIssuer"].Properties["jwks"].MaxLength, policy.MaxJWKS},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: the schema's limit is %d, the parser's %d", what, pair[0], pair[1])
		}
	}
}

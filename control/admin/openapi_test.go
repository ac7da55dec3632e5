package admin_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/admin"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

type operation struct {
	OperationID string `json:"operationId"`
	Summary     string `json:"summary"`
	Role        string `json:"x-role"`
	Parameters  []struct {
		Name, In string
		Required bool
	} `json:"parameters"`
	RequestBody *struct{} `json:"requestBody"`
	Responses   map[string]struct {
		Content map[string]struct{ Schema json.RawMessage }
	} `json:"responses"`
}

func described(t *testing.T) map[string]operation {
	t.Helper()
	var doc struct {
		Paths map[string]map[string]operation
	}
	if err := json.Unmarshal(admin.OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]operation)
	for path, methods := range doc.Paths {
		for method, op := range methods {
			all[strings.ToUpper(method)+" "+path] = op
		}
	}
	return all
}

// TestDescription: what is described is what is there, with its role and its parameters.
func TestDescription(t *testing.T) {
	routes, ops := admin.Routes(), described(t)
	ids := make(map[string]bool)
	for pattern, op := range ops {
		role, there := routes[pattern]
		if !there {
			t.Errorf("%s is described, and not there", pattern)
			continue
		}
		if op.Role != role.String() || op.Summary == "" || op.OperationID == "" || ids[op.OperationID] {
			t.Errorf("%s: x-role %q, want %q; summary %q, operation %q", pattern, op.Role, role, op.Summary, op.OperationID)
		}
		ids[op.OperationID] = true
		for _, p := range op.Parameters {
			if (p.In == "path") != strings.Contains(pattern, "{"+p.Name+"}") || p.In == "path" && !p.Required {
				t.Errorf("%s: parameter %+v", pattern, p)
			}
		}
		if n := strings.Count(pattern, "{"); n > 0 && len(op.Parameters) < n {
			t.Errorf("%s: %d parameters", pattern, len(op.Parameters))
		}
	}
	for pattern := range routes {
		if _, there := ops[pattern]; !there {
			t.Errorf("%s is there, and not described in openapi.json", pattern)
		}
	}
}

// TestAnswersAreAsDescribed: each answer of a backend with nothing in it is of its schema.
func TestAnswersAreAsDescribed(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(admin.OpenAPI()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	if err := compiler.AddResource("openapi.json", doc); err != nil {
		t.Fatal(err)
	}
	h := admin.Handler(backend{}, slog.New(slog.DiscardHandler))
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
	for pattern, op := range described(t) {
		method, path, _ := strings.Cut(pattern, " ")
		if op.Responses["200"].Content["application/json"].Schema == nil {
			continue
		}
		schema, err := compiler.Compile("openapi.json#/paths/" + escape.Replace(path) + "/" + strings.ToLower(method) + "/responses/200/content/application~1json/schema")
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		target := strings.NewReplacer("{version}", "3", "{id}", "a", "{serial}", "4f").Replace(path) + "?n=3&name=a"
		body := "{}"
		if pattern == "POST /v1/rules" {
			body = "[]"
		}
		w := httptest.NewRecorder()
		ctx := admin.WithCaller(t.Context(), admin.Caller{Role: admin.Admin})
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, target, strings.NewReader(body)))
		answer, err := jsonschema.UnmarshalJSON(w.Body)
		if err != nil || w.Code != http.StatusOK {
			t.Errorf("%s: %d, %v", pattern, w.Code, err)
			continue
		}
		if err := schema.Validate(answer); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}

package api

import (
	"bytes"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
)

var update = flag.Bool("update", false, "write doc/openapi.yaml")

// TestDocument keeps the document in the repository the same as the routes.
func TestDocument(t *testing.T) {
	got, err := OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "..", "doc", "openapi.yaml")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the routes say (%v): run go generate ./internal/server/api", path, err)
	}
	again, err := OpenAPI()
	if err != nil || !bytes.Equal(got, again) {
		t.Errorf("the document differs from call to call (%v)", err)
	}
}

// TestEveryRouteIsDescribed looks at what a reader of the document sees of each route.
func TestEveryRouteIsDescribed(t *testing.T) {
	s := &server{mux: http.NewServeMux()}
	document := s.register().OpenAPI()
	seen := map[string]bool{}
	for _, r := range routes() {
		item := document.Paths[r.path]
		if item == nil {
			t.Fatalf("%s is not in the document", r.path)
		}
		op := map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "PATCH": item.Patch}[r.method]
		if op == nil {
			t.Fatalf("%s %s is not in the document", r.method, r.path)
		}
		if seen[op.OperationID] || op.OperationID == "" {
			t.Errorf("%s %s: operation id %q is empty or taken", r.method, r.path, op.OperationID)
		}
		seen[op.OperationID] = true
		if op.Summary == "" {
			t.Errorf("%s: no summary", op.OperationID)
		}
		if r.permission != "" && (op.Extensions["x-permission"] != string(r.permission) || !strings.Contains(op.Description, string(r.permission))) {
			t.Errorf("%s: the document does not name the permission %s", op.OperationID, r.permission)
		}
		for _, status := range []string{"400", "401", "403", "404", "409", "500", "503"} {
			if response := op.Responses[status]; response == nil || response.Content["application/problem+json"].Schema == nil {
				t.Errorf("%s: no schema for %s", op.OperationID, status)
			}
		}
		for status, response := range op.Responses {
			for contentType, media := range response.Content {
				if media.Schema == nil || media.Schema.Ref == "" && media.Schema.Type == "" {
					t.Errorf("%s: %s %s has no schema", op.OperationID, status, contentType)
				}
			}
		}
		for _, p := range op.Parameters {
			if p.Description == "" {
				t.Errorf("%s: parameter %s has no description", op.OperationID, p.Name)
			}
		}
	}
	for name, schema := range document.Components.Schemas.Map() {
		for field, s := range schema.Properties {
			if s.Description == "" {
				t.Errorf("schema %s: %s has no description", name, field)
			}
		}
	}
}

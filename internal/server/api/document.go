package api

import (
	"net/http"

	"mooring/internal/base/errs"
)

//go:generate go test -run ^TestDocument$ . -update

// OpenAPI returns the OpenAPI 3.1 document of the API in YAML, the same that a server answers at /openapi.yaml and that stands in
// doc/openapi.yaml.
func OpenAPI() ([]byte, error) {
	s := &server{mux: http.NewServeMux()} // routes are only described, never called
	document, err := s.register().OpenAPI().YAML()
	if err != nil {
		return nil, errs.Wrap(errs.Internal, err, "writing the OpenAPI document")
	}
	return document, nil
}

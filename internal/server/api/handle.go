package api

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/server/api/v1"
)

// bodyTime is how long a body other than an import may take to arrive.
const bodyTime = 30 * time.Second

// route is a row of the table: what is answered where, for whom, by what.
type route struct {
	method, path string
	id           string            // of the operation in the document
	permission   access.Permission // what core will ask for; "" = any known caller
	summary      string
	about        string // more, where the summary does not say all
	status       int    // of success; 0 = 200
	handler      registrar
}

// registrar makes a route known to huma.
type registrar func(s *server, a huma.API, op huma.Operation)

// output lets a handler write the answer itself, through the one way that errors take everywhere. What it will be is in the operation already.
type output struct{ Body func(huma.Context) }

// answers makes a registrar of a method that takes input I and returns the answer T.
func answers[I, T any](fn func(s *server, ctx context.Context, actor access.Actor, in *I) (T, error)) registrar {
	return func(s *server, a huma.API, op huma.Operation) {
		schema := a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
		describe(&op, "application/json", schema)
		serve(a, op, func(w http.ResponseWriter, r *http.Request, actor access.Actor, in *I) {
			out, err := fn(s, r.Context(), actor, in)
			if err != nil {
				web.Problem(w, r, err)
				return
			}
			writeJSON(w, op.DefaultStatus, "application/json", out)
		})
	}
}

// streams makes a registrar of a method that answers with JSON lines of type T. An error means that nothing was written yet.
func streams[I, T any](fn func(s *server, w http.ResponseWriter, r *http.Request, actor access.Actor, in *I) error) registrar {
	return func(s *server, a huma.API, op huma.Operation) {
		describe(&op, "application/jsonl", a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, ""))
		serve(a, op, writes(s, fn))
	}
}

// writes gives a method that writes its answer itself the form that serve wants.
func writes[I any](s *server, fn func(*server, http.ResponseWriter, *http.Request, access.Actor, *I) error) func(http.ResponseWriter, *http.Request, access.Actor, *I) {
	return func(w http.ResponseWriter, r *http.Request, actor access.Actor, in *I) {
		if err := fn(s, w, r, actor, in); err != nil {
			web.Problem(w, r, err)
		}
	}
}

func serve[I any](a huma.API, op huma.Operation, fn func(http.ResponseWriter, *http.Request, access.Actor, *I)) {
	huma.Register(a, op, func(_ context.Context, in *I) (*output, error) {
		return &output{func(ctx huma.Context) {
			r, w := humago.Unwrap(ctx)
			fn(w, r, actorOf(ctx.Context()), in)
		}}, nil
	})
}

// describe puts into op what success looks like.
func describe(op *huma.Operation, contentType string, schema *huma.Schema) {
	response := op.Responses[strconv.Itoa(op.DefaultStatus)]
	if response == nil {
		response = &huma.Response{Description: "Done", Content: map[string]*huma.MediaType{}}
		op.Responses[strconv.Itoa(op.DefaultStatus)] = response
	}
	response.Content[contentType] = &huma.MediaType{Schema: schema}
}

// register makes all routes known and returns huma's view of them.
func (s *server) register() huma.API {
	config := huma.DefaultConfig("Mooring", "1")
	config.Info.Description = "Run a fleet's PKI: devices, certificates, certification authorities, revocation, the audit record."
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", "" // huma's own pages load scripts from elsewhere
	config.CreateHooks = nil                                             // no "$schema" in answers
	config.RejectUnknownQueryParameters = true
	config.Transformers = []huma.Transformer{plainProblem}
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"certificate": {
		Type: "mutualTLS", Description: "A certificate of a profile that grants a role. On the Unix socket the user of the machine counts instead.",
	}}
	a := humago.New(s.mux, config)
	problem := a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[v1.Problem](), true, "")
	for _, r := range routes() {
		r.handler(s, a, s.operation(r, problem))
	}
	openAnswers(a.OpenAPI())
	return a
}

// openAnswers lets answers hold more than the document says, since fields are added within a version. Requests stay strict.
func openAnswers(document *huma.OpenAPI) {
	strict := map[string]bool{}
	for _, item := range document.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Patch} {
			if op != nil && op.RequestBody != nil && op.RequestBody.Content["application/json"] != nil {
				strict[path.Base(op.RequestBody.Content["application/json"].Schema.Ref)] = true
			}
		}
	}
	for name, schema := range document.Components.Schemas.Map() {
		if !strict[name] {
			schema.AdditionalProperties = nil
		}
	}
}

// operation is what the table says about r, for huma.
func (s *server) operation(r route, problem *huma.Schema) huma.Operation {
	op := huma.Operation{Method: r.method, Path: r.path, OperationID: r.id, Summary: r.summary, Description: r.about, DefaultStatus: r.status,
		BodyReadTimeout: bodyTime, Responses: map[string]*huma.Response{}, Security: []map[string][]string{{"certificate": {}}}}
	if op.DefaultStatus == 0 {
		op.DefaultStatus = http.StatusOK
	}
	if r.permission != "" {
		op.Description = fmt.Sprintf("%sNeeds the permission %s.", spaced(r.about), r.permission)
		op.Extensions = map[string]any{"x-permission": string(r.permission)}
	}
	for _, status := range []int{400, 401, 403, 404, 409, 413, 429, 500, 503} {
		op.Responses[strconv.Itoa(status)] = &huma.Response{Description: http.StatusText(status),
			Content: map[string]*huma.MediaType{"application/problem+json": {Schema: problem}}}
	}
	op.Middlewares = huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) {
		req, w := humago.Unwrap(ctx)
		if actor, ok := s.authenticate(w, req, r.permission); ok {
			next(huma.WithValue(plainStatus{ctx}, actorKey{}, actor))
		}
	}}
	return op
}

func spaced(text string) string {
	if text == "" {
		return ""
	}
	return text + " "
}

// plainStatus makes huma's refusals of what it cannot decode Invalid like every other one: 400 (package web), not 422.
type plainStatus struct{ embedded }

// embedded gives the interface a name that is not that of its method Context.
type embedded huma.Context

// Unwrap is how humago.Unwrap finds the request.
func (c plainStatus) Unwrap() huma.Context { return c.embedded }

// SetStatus replaces what means the same.
func (c plainStatus) SetStatus(code int) { c.embedded.SetStatus(plainCode(code)) }

func plainCode(code int) int {
	switch code {
	case http.StatusUnprocessableEntity, http.StatusUnsupportedMediaType:
		return http.StatusBadRequest
	case http.StatusRequestTimeout:
		return http.StatusServiceUnavailable
	}
	return code
}

// plainProblem turns huma's refusals into ours: no values of the request in them, which may be secret or long.
func plainProblem(_ huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := v1.Problem{Status: plainCode(e.Status), Detail: e.Detail}
	p.Title = http.StatusText(p.Status)
	if len(e.Errors) > 0 {
		p.Detail = "the request is not as the document says: correct the parts that are named here"
	}
	for _, d := range e.Errors[:min(len(e.Errors), maxFields)] {
		p.Errors = append(p.Errors, v1.Field{Where: shortened(d.Location), Text: shortened(plainMessage(d.Message))})
	}
	return p, nil
}

// plainMessage says what to use where huma says what it expected.
func plainMessage(text string) string {
	if choices, ok := strings.CutPrefix(text, "expected value to be one of "); ok {
		return "use one of " + strings.Trim(choices, `"`)
	}
	return text
}

// maxFields bounds how many mistakes of one request are told.
const maxFields = 20

// shortened keeps a text that may come from the request from being as long as it.
func shortened(text string) string {
	if r := []rune(text); len(r) > 200 {
		return string(r[:200]) + "…"
	}
	return text
}

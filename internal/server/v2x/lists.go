package v2x

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// OctetType is the content type of what the CPOC gives out (TS 102 941, annex E).
const OctetType = "application/octet-stream"

// maxAge is how long, in seconds, what is given out may be kept; what ends before that, no longer than it is valid.
const maxAge = 60

// document is what is given out.
type document struct {
	kind   string
	octets []byte
	ends   int64 // UTC seconds; 0: it does not
}

// finder finds what a path names, whose segments it gets; nil octets: there is nothing.
type finder func(ctx context.Context, t *trust.Service, path []string) (document, error)

// lists serves what finders find, by the first segment of the path. Behind a prefix, which may be empty, there is the same.
func lists(t *trust.Service, prefix string, finders map[string]finder) http.Handler {
	mux := http.NewServeMux()
	for name, find := range finders {
		bases := []string{"/" + name}
		if prefix != "" {
			bases = append(bases, "/"+prefix+"/"+name)
		}
		for _, base := range bases {
			h := serve(t, base, find)
			mux.HandleFunc(base, h)
			mux.HandleFunc(base+"/", h)
		}
	}
	mux.HandleFunc("/", nothing)
	return mux
}

// serve serves what a finder finds behind a path.
func serve(t *trust.Service, base string, find finder) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			web.MethodNotAllowed(w, http.MethodGet, http.MethodHead)
			return
		}
		var path []string
		if rest := strings.Trim(strings.TrimPrefix(r.URL.Path, base), "/"); rest != "" {
			path = strings.Split(rest, "/")
		}
		d, err := find(r.Context(), t, path)
		if err == nil && d.octets == nil {
			err = errs.New(errs.NotFound, "there is no such list")
		}
		if err != nil {
			web.Text(w, r, err)
			return
		}
		give(w, r, d, t.Now().Unix())
	}
}

// Distribution serves the lists of the roots.
func Distribution(t *trust.Service) http.Handler {
	return lists(t, "", map[string]finder{
		"getctl": func(ctx context.Context, t *trust.Service, path []string) (document, error) {
			if len(path) == 2 {
				return delta(ctx, t, trust.Root, scr.CTLType, path)
			}
			return full(t, trust.Root, scr.CTLType, path)
		},
		"getcrl": func(_ context.Context, t *trust.Service, path []string) (document, error) {
			d := document{kind: scr.CRLType}
			if p := publisher(t, trust.Root, path); p != nil && len(path) == 1 {
				d.octets = p.CRL
				if d.ends = t.Now().Unix(); p.Barred != nil {
					d.ends = p.Barred.NextUpdate.Time(t.Leap).Unix()
				}
			}
			return d, nil
		},
		"getlink": func(_ context.Context, t *trust.Service, path []string) (document, error) {
			d := document{kind: OctetType}
			if p := publisher(t, trust.Root, path); p != nil && len(path) == 1 {
				if l := t.State().LinkFrom(p.ID); l != nil {
					d.octets = l.Octets
				}
			}
			return d, nil
		},
	})
}

// CPOC serves the lists of the trust list manager and its certificates (annex E of TS 102 941), also behind the path sub, which names an environment such as L0.
// What may be left out is served with and without a slash at the end.
func CPOC(t *trust.Service, sub string) http.Handler {
	return lists(t, sub, map[string]finder{
		"gettlmcertificate": func(_ context.Context, t *trust.Service, path []string) (document, error) {
			d := document{kind: OctetType}
			if p := managerOf(t, path); p != nil {
				d.octets = p.Octets
			}
			return d, nil
		},
		"gettlmlinkcertificate": func(_ context.Context, t *trust.Service, path []string) (document, error) {
			d := document{kind: OctetType}
			if p := managerOf(t, path); p != nil {
				if l := t.State().LinkTo(p.ID); l != nil {
					d.octets = l.Octets
				}
			}
			return d, nil
		},
		"getectl": func(_ context.Context, t *trust.Service, path []string) (document, error) {
			return full(t, trust.Manager, OctetType, path)
		},
		"getdeltaectl": func(ctx context.Context, t *trust.Service, path []string) (document, error) {
			return delta(ctx, t, trust.Manager, OctetType, path)
		},
	})
}

// publisher is the root or manager that a path names, in digits of either case.
func publisher(t *trust.Service, role trust.Role, path []string) *trust.Publisher {
	if len(path) == 0 {
		return nil
	}
	b, err := hex.DecodeString(path[0])
	if err != nil || len(b) != len(its.HashedId8{}) {
		return nil
	}
	if p := t.State().Of(its.HashedId8(b)); p != nil && p.Role == role {
		return p
	}
	return nil
}

// managerOf is the manager that a path names, or the newest.
func managerOf(t *trust.Service, path []string) *trust.Publisher {
	switch all := t.State().Managers; {
	case len(path) == 1:
		return publisher(t, trust.Manager, path)
	case len(path) == 0 && len(all) > 0:
		return all[0]
	}
	return nil
}

func full(t *trust.Service, role trust.Role, kind string, path []string) (document, error) {
	d := document{kind: kind}
	if p := publisher(t, role, path); p != nil && len(path) == 1 {
		d.octets, d.ends = p.Full, t.Now().Unix()
		if p.Lists != nil {
			d.ends = p.Lists.NextUpdate.Time(t.Leap).Unix()
		}
	}
	return d, nil
}

func delta(ctx context.Context, t *trust.Service, role trust.Role, kind string, path []string) (d document, err error) {
	d.kind = kind
	p := publisher(t, role, path)
	if p == nil || len(path) > 2 {
		return d, nil
	}
	sequence := trust.Newest
	if len(path) == 2 {
		n, err := strconv.ParseUint(path[1], 10, 8)
		if err != nil {
			return d, nil // a number that no list has
		}
		sequence = int(n)
	}
	d.octets, d.ends, err = t.Delta(ctx, p.ID, sequence)
	return d, err
}

// give writes a document, unless the client has it.
func give(w http.ResponseWriter, r *http.Request, d document, now int64) {
	sum := sha256.Sum256(d.octets)
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	age := int64(maxAge)
	if d.ends != 0 {
		age = max(0, min(age, d.ends-now-1))
	}
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "max-age="+strconv.FormatInt(age, 10))
	if slices.Contains(strings.FieldsFunc(r.Header.Get("If-None-Match"), func(c rune) bool { return c == ',' || c == ' ' }), tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", d.kind)
		w.Header().Set("Content-Length", strconv.Itoa(len(d.octets)))
		return
	}
	web.Write(w, http.StatusOK, d.kind, d.octets)
}

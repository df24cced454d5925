package api

import "testing"

// Routes returns the table for tests outside the package.
func Routes() (list []struct{ Method, Path, Permission string }) {
	for _, r := range routes() {
		list = append(list, struct{ Method, Path, Permission string }{r.method, r.path, string(r.permission)})
	}
	return list
}

func TestPermissionsAreNamedOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Routes() {
		if at := r.Method + " " + r.Path; seen[at] {
			t.Errorf("%s stands in the table twice", at)
		} else {
			seen[at] = true
		}
	}
}

package app

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
)

// v2xOperators says of what the holders of each role are operators.
var v2xOperators = []struct {
	role access.Role
	of   string
}{{access.RoleV2XRoot, "the root"}, {access.RoleV2XEnrolment, "the enrolment authority"}, {access.RoleV2XTickets, "the authorization authority"}, {access.RoleV2XTrustLists, "the trust list manager"}}

// WriteV2XProfiles writes the profiles for the operators of the authorities of V2X to the directory of the profiles: those that are not there yet, whose names it
// returns. They are like that of auditors but for the role.
func WriteV2XProfiles(c *conf.Config) (written []string, err error) {
	auditor, err := fs.ReadFile(ca.DefaultProfiles(), "auditor.yaml")
	if err != nil {
		return nil, err
	}
	_, body, _ := strings.Cut(string(auditor), "\n") // without the line that says whom it is for
	for _, o := range v2xOperators {
		text := strings.ReplaceAll(body, "certificate of an auditor", "certificate of an operator of "+o.of+" for vehicles")
		text = "# For operators of " + o.of + " for vehicles, who may run that and see what is public of the others.\n" + strings.ReplaceAll(text, "auditor", string(o.role))
		f, err := os.OpenFile(filepath.Join(c.ProfileDir(), string(o.role)+".yaml"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return written, errs.Wrap(errs.Unavailable, err, "the profile %s cannot be written", o.role)
		}
		written = append(written, string(o.role))
	}
	return written, nil
}

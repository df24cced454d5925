package conf

import (
	"net/url"
	"os"
	"strings"

	"mooring/internal/base/errs"
)

// DatabaseURL returns the address to open: a SQLite file made absolute, or the PostgreSQL address with the password from
// database.password_file put in. The result may be secret: do not log it.
func (c *Config) DatabaseURL() (string, error) {
	if file, ok := strings.CutPrefix(c.Database.URL, "sqlite:"); ok {
		return "sqlite:" + c.Path(file), nil
	}
	if c.Database.PasswordFile == "" {
		return c.Database.URL, nil
	}
	u, err := url.Parse(c.Database.URL)
	if err != nil {
		return "", errs.New(errs.Invalid, "database.url is not a URL")
	}
	password, err := readPassword(c.Path(c.Database.PasswordFile))
	if err != nil {
		return "", err
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String(), nil
}

func readPassword(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", errs.Wrap(errs.Unavailable, err, "database.password_file %s cannot be read", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", errs.New(errs.Denied, "database.password_file %s can be read by others: run chmod 600 %s", path, path)
	}
	data, err := readBounded(path)
	if err != nil {
		return "", errs.Wrap(errs.Unavailable, err, "database.password_file %s cannot be read", path)
	}
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" || strings.ContainsAny(password, "\r\n") {
		return "", errs.New(errs.Invalid, "database.password_file %s must hold one line, the password", path)
	}
	return password, nil
}

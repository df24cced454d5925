package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"

	"mooring/internal/base/errs"
)

// position is how the YAML library begins what it says.
var position = regexp.MustCompile(`^\[(\d+):(\d+)\] `)

// maxFiles bounds how many files a directory of configuration may have.
const maxFiles = 1000

// Files reads every file NAME.yaml of a directory into a T, strictly: a key that T does not have is an error with file and line, and all errors are reported
// together. It returns them by their names. An absent directory is an error: it was named.
func Files[T any](dir string) (map[string]T, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the directory %s cannot be read: make it, or leave its key out of %s", dir, FileName)
	}
	found, wrong := map[string]T{}, []error(nil)
	for _, e := range entries {
		name, is := strings.CutSuffix(e.Name(), ".yaml")
		if !is || e.IsDir() {
			continue
		}
		if len(found)+len(wrong) >= maxFiles {
			return nil, errs.New(errs.Invalid, "%s has more than %d files", dir, maxFiles)
		}
		one, err := file[T](filepath.Join(dir, e.Name()))
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		found[name] = one
	}
	if len(wrong) > 0 {
		return nil, errs.New(errs.Invalid, "%v", errors.Join(wrong...))
	}
	return found, nil
}

func file[T any](path string) (one T, err error) {
	data, err := readBounded(path)
	if err != nil {
		var cause *fs.PathError
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return one, fmt.Errorf("%s cannot be read: %w", path, err)
	}
	if len(data) > maxFile {
		return one, fmt.Errorf("%s has more than %d octets", path, maxFile)
	}
	if err := yaml.UnmarshalWithOptions(data, &one, yaml.Strict()); err != nil {
		said, _, _ := strings.Cut(yaml.FormatError(err, false, false), "\n")
		at := path
		if found := position.FindStringSubmatch(said); found != nil {
			at, said = fmt.Sprintf("%s:%s", path, found[1]), said[len(found[0]):]
		}
		return one, fmt.Errorf("%s: %s", at, said)
	}
	return one, nil
}

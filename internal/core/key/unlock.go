package key

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"

	"mooring/internal/base/errs"
)

// Unlock material longer than this is a mistake, such as the wrong file.
const maxUnlock = 4096

// ReadUnlock fetches the unlock material of a store. Source is "file:PATH" (a file that only its owner may read, such as a systemd
// credential), "fd:N" (an open file descriptor, read to its end and closed) or "prompt" (prompt asks a person; nil where nobody can be
// asked). One line end at the end is dropped. Empty material is an error.
func ReadUnlock(source string, prompt func() ([]byte, error)) ([]byte, error) {
	kind, arg, _ := strings.Cut(source, ":")
	var data []byte
	var err error
	switch {
	case kind == "file" && arg != "":
		data, err = readPrivate(arg, maxUnlock)
	case kind == "fd":
		data, err = readDescriptor(arg)
	case source == "prompt" && prompt == nil:
		return nil, errs.New(errs.Unavailable, "nobody can be asked for the passphrase here: use file:PATH or fd:N")
	case source == "prompt":
		data, err = prompt()
	default:
		return nil, errs.New(errs.Invalid, "unknown unlock source %q: use file:PATH, fd:N or prompt", source)
	}
	if err != nil {
		return nil, err
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) == 0 {
		return nil, errs.New(errs.Invalid, "the unlock material from %s is empty", kind)
	}
	return data, nil
}

func readDescriptor(arg string) ([]byte, error) {
	n, err := strconv.ParseUint(arg, 10, 16)
	if err != nil {
		return nil, errs.New(errs.Invalid, "fd:%s: a file descriptor is a number, such as fd:3", arg)
	}
	f := os.NewFile(uintptr(n), "unlock")
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxUnlock+1))
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "file descriptor %d cannot be read", n)
	}
	if len(data) > maxUnlock {
		return nil, errs.New(errs.Invalid, "the unlock material from fd:%d is longer than %d octets", n, maxUnlock)
	}
	return data, nil
}

//go:build unix

package key

import (
	"io/fs"
	"os"
	"syscall"

	"mooring/internal/base/errs"
)

// checkOwner refuses what belongs to another user: he could change the mode at any time. Root may own a file that we only read.
func checkOwner(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) == os.Geteuid() || st.Uid == 0 {
		return nil
	}
	return errs.New(errs.Unavailable, "%s belongs to user %d, not to user %d who runs this: run chown %d %s, then chmod 0%s %s",
		path, st.Uid, os.Geteuid(), os.Geteuid(), path, modeFor(info), path)
}

func modeFor(info fs.FileInfo) string {
	if info.IsDir() {
		return "700"
	}
	return "600"
}

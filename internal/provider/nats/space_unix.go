//go:build linux || darwin

package nats

import "syscall"

// space is how many octets are free for us where dir lies.
func space(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

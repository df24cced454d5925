package gate

import (
	"fmt"
	"net"
	"syscall"
)

// peerUID asks the kernel which user connected (SO_PEERCRED, unix(7)).
func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("reaching the socket: %w", err)
	}
	var cred *syscall.Ucred
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		cred, optErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("reaching the socket: %w", err)
	}
	if optErr != nil {
		return 0, fmt.Errorf("asking for the peer's user: %w", optErr)
	}
	return cred.Uid, nil
}

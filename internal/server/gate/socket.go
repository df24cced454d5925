package gate

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"strconv"
	"syscall"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// maxPath is the longest path that fits a Unix socket's address on every system we know (sun_path of macOS, with its final zero).
const maxPath = 103

// ListenSocket binds the Unix socket at the path o.Address, for commands on this machine. A socket that nobody answers on is left over from a
// crash and replaced; one that somebody answers on is an error, as is anything else at the path. Access is decided by the user at the
// other end (Peer.Local), the file's mode comes on top.
func ListenSocket(ctx context.Context, o Options) (*Gate, error) {
	if o.Mode == 0 {
		o.Mode = 0o600
	}
	switch {
	case o.TLS != nil:
		return nil, errs.New(errs.Invalid, "the Unix socket does not speak TLS")
	case o.Mode != 0o600 && o.Mode != 0o660:
		return nil, errs.New(errs.Invalid, "the mode %#o is neither 0600 nor 0660", o.Mode)
	case len(o.Address) == 0 || len(o.Address) > maxPath:
		return nil, errs.New(errs.Invalid, "the socket's path %q has %d octets, not 1 to %d: set listen.socket to a shorter one, such as /run/mooring/mooring.sock",
			o.Address, len(o.Address), maxPath)
	}
	g, err := newGate(o)
	if err != nil {
		return nil, err
	}
	if err := clear(ctx, o.Address); err != nil {
		return nil, err
	}
	g.listener, err = new(net.ListenConfig).Listen(ctx, "unix", o.Address)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "cannot make the socket %s: check that its directory exists and belongs to this user, or change listen.socket", o.Address)
	}
	if err := os.Chmod(o.Address, o.Mode); err != nil {
		_ = g.listener.Close()
		return nil, errs.Wrap(errs.Unavailable, err, "cannot set the mode of the socket %s", o.Address)
	}
	return g, nil
}

// clear removes a socket at path that nobody answers on.
func clear(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "cannot look at %s", path)
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errs.New(errs.Conflict, "%s is not a socket: move it away or change listen.socket", path)
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close()
		return errs.New(errs.Conflict, "another server answers on %s: stop it first", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return errs.Wrap(errs.Unavailable, err, "cannot tell whether somebody answers on %s", path)
	}
	if err := os.Remove(path); err != nil {
		return errs.Wrap(errs.Unavailable, err, "cannot remove the left-over socket %s", path)
	}
	return nil
}

// localActor returns the user at the other end of c, as the kernel knows it.
func localActor(c *net.UnixConn) (access.Actor, error) {
	uid, err := peerUID(c)
	if err != nil {
		return access.Actor{}, err
	}
	return actorOf(uid, os.Geteuid()), nil
}

// actorOf decides what the user uid may do on a server that runs as server: its owner could read the data anyway, and so could root.
func actorOf(uid uint32, server int) access.Actor {
	a := access.Actor{Kind: access.KindLocal, ID: "uid=" + strconv.FormatUint(uint64(uid), 10), Role: access.RoleNone, Via: "socket"}
	if uid == 0 || int64(uid) == int64(server) {
		a.Role = access.RoleAdmin
	}
	return a
}

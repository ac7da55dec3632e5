package mesh

import (
	"net"
	"os"
	"syscall"
)

// ofOurUser reports whether a process of our user opened the other end of a Unix socket, or listens there.
func ofOurUser(c net.Conn) bool {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	ours := false
	err = raw.Control(func(fd uintptr) {
		cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		ours = err == nil && int(cred.Uid) == os.Geteuid()
	})
	return err == nil && ours
}

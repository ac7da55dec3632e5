package control

import (
	"fmt"
	"net"
	"os/user"
	"strconv"
	"syscall"
)

// socketUser is who opened a unix socket's connection, as the kernel says: "uid 1000 (alice)".
func socketUser(c net.Conn) string {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ""
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ""
	}
	var cred *syscall.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); e != nil || err != nil {
		return ""
	}
	uid := strconv.FormatUint(uint64(cred.Uid), 10)
	if who, err := user.LookupId(uid); err == nil {
		return fmt.Sprintf("uid %s (%s)", uid, who.Username)
	}
	return "uid " + uid
}

//go:build !unix

package mesh

import "net"

func nowaitSocket(net.Conn) nowait { return nil }

func pollable(nowait) bool { return false }

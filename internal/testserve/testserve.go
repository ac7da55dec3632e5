// Package testserve accepts connections for tests. Only tests import it.
package testserve

import (
	"io"
	"net"
	"sync"
)

// Each has serve called with each connection that ln accepts, in a goroutine of its own, until ln is closed. What it returns waits until
// all of them have returned.
func Each(ln net.Listener, serve func(net.Conn)) (wait func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(c) })
		}
	})
	return wg.Wait
}

// Echo sends back what comes, and closes c.
func Echo(c net.Conn) {
	_, _ = io.Copy(c, c)
	_ = c.Close()
}

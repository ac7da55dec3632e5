package mesh

import (
	"crypto/tls"
	"net"

	"github.com/intramesh/mesh/internal/outbox"
)

// net/http writes each request of an HTTP/2 connection by itself. An outbox between TLS and the network sends together what requests made at
// the same time write.

func outboxed(c net.Conn) net.Conn { return outbox.New(c) }

// gather begins to send together what is written to c, which is ours and has an outbox.
func gather(c net.Conn) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return
	}
	if n, ok := t.NetConn().(*netConn); ok {
		if o, ok := n.Conn.(*outbox.Conn); ok {
			o.Collect()
		}
	}
}

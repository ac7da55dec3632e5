package mesh

import (
	"sync"
	"sync/atomic"
)

// TLS hands each record to the connection below it on its own. Under our own framing netConn puts those of one large Write together: a
// system call for 256 KiB. Of what comes, TLS itself reads two records at a time, once its buffer has grown.
const maxCork = 256 << 10

// buffers are shared by the connections of a mesh: an idle one holds none.
type buffers struct {
	frames sync.Pool // *[maxRecord]byte
	corks  sync.Pool // *[]byte
	words  sync.Pool // *[frameHeader]byte
}

func newBuffers() *buffers {
	b := new(buffers)
	b.frames.New = func() any { return new([maxRecord]byte) }
	b.corks.New = func() any { big := make([]byte, 0, maxCork+2*maxRecord); return &big }
	b.words.New = func() any { return new([frameHeader]byte) }
	return b
}

// cork holds back what is written while one large Write is cut into records.
type cork struct {
	active atomic.Bool // changes with mu held
	mu     sync.Mutex
	held   []byte
}

// take keeps p when the cork is in.
func (k *cork) take(p []byte) bool {
	if !k.active.Load() {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.active.Load() {
		return false // pulled meanwhile: what was held back has been sent
	}
	k.held = append(k.held, p...)
	return true
}

// putCork holds back what is written from now on, in buf.
func (c *netConn) putCork(buf []byte) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.held = buf[:0]
	c.out.active.Store(true)
}

// pullCork sends what was held back, and returns the buffer.
func (c *netConn) pullCork() ([]byte, error) {
	err := c.flush(0)
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	buf := c.out.held
	c.out.held = nil
	c.out.active.Store(false)
	return buf, err
}

// flush sends what is held back when it is more than limit bytes.
func (c *netConn) flush(limit int) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if len(c.out.held) <= limit {
		return nil
	}
	err := c.send(c.out.held)
	c.out.held = c.out.held[:0]
	return err
}

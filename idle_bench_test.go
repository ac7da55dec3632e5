package mesh_test

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
)

// BenchmarkIdle opens connections that say a word and are quiet then, and reports what each of them holds: the live heap of both ends, the stack
// of the server's goroutine, and what of the heap package mesh has allocated. The client is crypto/tls's each time. Run it with
// -benchtime 1x, and with -memprofilerate 1 for exact figures of ours.
func BenchmarkIdle(b *testing.B) {
	w := newWorld(b, rule{from: "orders", to: "payments"})
	m := w.join("payments")
	client, server := tlsOf(b, w.source("orders")), tlsOf(b, w.source("payments"))
	client.NextProtos = nil
	bare := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a local address
		if err != nil {
			b.Fatal(err)
		}
		return tls.NewListener(ln, server)
	}
	b.Run("once, for what stays", func(b *testing.B) { idle(b, bare(), client, "x") })
	b.Run("crypto/tls", func(b *testing.B) { idle(b, bare(), client, "x") })
	raw := client.Clone()
	raw.NextProtos = []string{"mesh/2"}
	b.Run("mesh", func(b *testing.B) { idle(b, w.listen(m), raw, string(rawFrame(fData, 0, "x"))) })
}

func idle(b *testing.B, ln net.Listener, client *tls.Config, word string) {
	const n = 2000
	go echoBytes(ln)
	var before, after runtime.MemStats
	for b.Loop() {
		ours := settle(&before)
		var conns []*tls.Conn
		for range n {
			c, err := dialTLS(b, ln.Addr().String(), client)
			if err != nil {
				b.Fatal(err)
			}
			conns = append(conns, c)
			if _, err := io.WriteString(c, word); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, len(word))); err != nil {
				b.Fatal(err)
			}
		}
		ours = settle(&after) - ours
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "heap-B/conn")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/n, "stack-B/conn")
		b.ReportMetric(float64(ours)/n, "ours-B/conn")
		for _, c := range conns {
			_ = c.Close()
		}
	}
	_ = ln.Close()
}

// echoBytes has every byte come back.
func echoBytes(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var b [1]byte
			for {
				if _, err := c.Read(b[:]); err != nil {
					return
				}
				if _, err := c.Write(b[:]); err != nil {
					return
				}
			}
		}()
	}
}

// settle returns how many live bytes package mesh has allocated, and not crypto/tls on its behalf, once the garbage is gone.
func settle(s *runtime.MemStats) (ours int64) {
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(s)
	n, _ := runtime.MemProfile(nil, false)
	records := make([]runtime.MemProfileRecord, 2*n)
	n, _ = runtime.MemProfile(records, false)
	for _, r := range records[:n] {
		if isOurs(r.Stack()) {
			ours += r.InUseBytes()
		}
	}
	return ours
}

func isOurs(stack []uintptr) bool {
	mesh := false
	for frames := runtime.CallersFrames(stack); ; {
		f, more := frames.Next()
		switch {
		case strings.HasPrefix(f.Function, "crypto/tls."), strings.HasPrefix(f.Function, "net."):
			return false
		case strings.HasPrefix(f.Function, "github.com/intramesh/mesh."):
			mesh = true
		}
		if !more {
			return mesh
		}
	}
}

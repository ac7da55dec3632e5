package attacks

import (
	"bytes"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func http1Servers() []hostileServer {
	// says answers the first request with begin, and then part without end.
	says := func(begin, part string) func(net.Conn) {
		return func(c net.Conn) {
			_, err := io.ReadAtLeast(c, make([]byte, 4096), 4)
			must(err)
			write(c, begin)
			if part != "" {
				again(16, func(int) { write(c, strings.Repeat(part, 1<<20/len(part)+1)) })
			}
			stay(c)
		}
	}
	const ok = "HTTP/1.1 200 OK\r\n"
	all := []hostileServer{
		{name: "sends a header without end", do: says(ok, "X-Filler: "+strings.Repeat("x", 1000)+"\r\n")},
		{name: "sends very many headers", do: says(ok, "a:b\r\n")},
		{name: "sends a status without end", do: says("HTTP/1.1 200 ", "xxxxxxxx")},
		{name: "sends informational answers without end", do: says("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")},
		{name: "sends chunk extensions without end", do: says(ok+"Transfer-Encoding: chunked\r\n\r\n1", ";x=y")},
		{name: "sends chunks of one byte with extensions", do: says(ok+"Transfer-Encoding: chunked\r\n\r\n", "1;"+strings.Repeat("x", 1000)+"\r\nx\r\n")},
		{name: "sends a trailer without end", do: says(ok+"Transfer-Encoding: chunked\r\n\r\n0\r\n", "a:b\r\n")},
		{name: "sends less than it announced", do: says(ok+"Content-Length: 100\r\n\r\nwell", "")},
		{name: "sends more than it announced", do: says(ok+"Content-Length: 4\r\n\r\nwellHTTP/1.1 200 OK\r\n", "xxxxxxxx")},
		{name: "announces lengths that can't be", do: says(ok+"Content-Length: -1\r\nContent-Length: 99999999999999999999\r\n\r\n", "")},
		{name: "answers before it is asked", do: func(c net.Conn) { write(c, strings.Repeat(ok+"Content-Length: 4\r\n\r\nevil", 100)); stay(c) }},
		{name: "goes on when it has answered", do: func(c net.Conn) {
			again(1000, func(int) {
				_, err := io.ReadAtLeast(c, make([]byte, 4096), 4)
				must(err)
				write(c, ok+"Content-Length: 4\r\n\r\nwell")
				<-time.After(time.Second)
				write(c, ok+"Content-Length: 4\r\n\r\nevil")
			})
		}},
		{name: "switches protocols unasked", do: says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: Upgrade\r\n\r\n", "xxxxxxxx")},
		{name: "sends everybody round and round", do: says("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://evil/\r\nContent-Length: 0\r\n\r\n", "")},
		{name: "leaves within its answer", do: func(c net.Conn) {
			_, _ = io.ReadAtLeast(c, make([]byte, 4096), 4)
			write(c, ok+"Content-Length: 4\r\n\r\nwe")
		}},
		{name: "sends a byte a second", do: func(c net.Conn) {
			for _, b := range ok + strings.Repeat("X: y\r\n", 100) {
				write(c, string(b))
				<-time.After(time.Second)
			}
		}},
	}
	for i := range all {
		all[i].on = "http1"
	}
	return all
}

func http2Servers() []hostileServer {
	head := func(more ...hpack.HeaderField) []byte {
		return block(append([]hpack.HeaderField{{Name: ":status", Value: "200"}}, more...)...)
	}
	headers := func(f *http2.Framer, id uint32, b []byte, end bool) {
		must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b, EndHeaders: true, EndStream: end}))
	}
	// flood sends frames without end once it is asked.
	flood := func(n int, frame func(f *http2.Framer, id uint32, i int) error) func(net.Conn) {
		return requests(func(f *http2.Framer, id uint32) { again(n, func(i int) { must(frame(f, id, i)) }) })
	}
	all := []hostileServer{
		{name: "sends a header block without end", do: requests(func(f *http2.Framer, id uint32) {
			must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head()}))
			part := bytes.Repeat([]byte("\x00\x01a\x01b"), 16<<10/5)
			again(1000, func(int) { must(f.WriteContinuation(id, false, part)) })
		})},
		{name: "sends empty parts of a header block", do: requests(func(f *http2.Framer, id uint32) {
			must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head()}))
			again(5000, func(int) { must(f.WriteContinuation(id, false, nil)) })
		})},
		{name: "sends an HPACK bomb", do: requests(func(f *http2.Framer, id uint32) {
			b := append(head(hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 4000)}), bytes.Repeat([]byte{0x80 | 62}, 8<<10)...)
			headers(f, id, b, true)
		})},
		{name: "sends informational answers without end", do: flood(5000, func(f *http2.Framer, id uint32, _ int) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(hpack.HeaderField{Name: ":status", Value: "103"}), EndHeaders: true})
		})},
		{name: "goes away again and again", do: requests(func(f *http2.Framer, _ uint32) { must(f.WriteGoAway(0, http2.ErrCodeNo, nil)) })},
		{name: "goes away, and raises its last stream", do: flood(1000, func(f *http2.Framer, _ uint32, i int) error {
			return f.WriteGoAway(uint32(2*i+1), http2.ErrCodeNo, make([]byte, 1000))
		})},
		{name: "refuses every stream", do: requests(func(f *http2.Framer, id uint32) { must(f.WriteRSTStream(id, http2.ErrCodeRefusedStream)) })},
		{name: "resets every stream", do: requests(func(f *http2.Framer, id uint32) { must(f.WriteRSTStream(id, http2.ErrCodeInternal)) })},
		{name: "wants HTTP/1.1", do: requests(func(f *http2.Framer, id uint32) { must(f.WriteRSTStream(id, http2.ErrCodeHTTP11Required)) })},
		{name: "pushes", do: flood(100, func(f *http2.Framer, id uint32, i int) error {
			return f.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: uint32(2*i + 2), BlockFragment: head(), EndHeaders: true})
		})},
		{name: "shrinks what may be sent", do: requests(func(f *http2.Framer, _ uint32) {
			must(f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0},
				http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14}, http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 1}))
		})},
		{name: "has settings that can't be", do: requests(func(f *http2.Framer, _ uint32) {
			must(f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1}))
		})},
		{name: "floods settings", real: true, do: flood(5000, func(f *http2.Framer, _ uint32, _ int) error { return f.WriteSettings() })},
		{name: "floods pings", real: true, do: flood(5000, func(f *http2.Framer, _ uint32, _ int) error { return f.WritePing(false, [8]byte{}) })},
		{name: "floods window updates", do: flood(5000, func(f *http2.Framer, _ uint32, _ int) error { return f.WriteWindowUpdate(0, 1) })},
		{name: "overflows the window", do: flood(3, func(f *http2.Framer, _ uint32, _ int) error { return f.WriteWindowUpdate(0, 1<<31-1) })},
		{name: "floods empty data", do: requests(func(f *http2.Framer, id uint32) {
			headers(f, id, head(), false)
			again(5000, func(int) { must(f.WriteData(id, false, nil)) })
		})},
		{name: "sends more data than the window takes", do: requests(func(f *http2.Framer, id uint32) {
			headers(f, id, head(), false)
			again(1000, func(int) { must(f.WriteData(id, false, make([]byte, 16<<10))) })
		})},
		{name: "sends less than it announced", do: requests(func(f *http2.Framer, id uint32) {
			headers(f, id, head(hpack.HeaderField{Name: "content-length", Value: "100"}), false)
			must(f.WriteData(id, true, []byte("well")))
		})},
		{name: "answers what was not asked", do: flood(1, func(f *http2.Framer, id uint32, _ int) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id + 100, BlockFragment: head(), EndHeaders: true})
		})},
		{name: "answers without a status", do: requests(func(f *http2.Framer, id uint32) { headers(f, id, block(), true) })},
		{name: "never ends its answer", do: requests(func(f *http2.Framer, id uint32) { headers(f, id, head(), false) })},
		{name: "leaves without a word when asked", do: requests(func(*http2.Framer, uint32) { panic(errRefused) })},
	}
	for i := range all {
		all[i].on = "h2 grpc"
	}
	return all
}

func grpcServers() []hostileServer {
	field := func(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }
	// answers begins an answer as gRPC has it, with messages, and ends it with a trailer if there is one.
	answers := func(more []hpack.HeaderField, trailer []hpack.HeaderField, messages ...[]byte) func(net.Conn) {
		return requests(func(f *http2.Framer, id uint32) {
			b := block(append([]hpack.HeaderField{field(":status", "200"), field("content-type", "application/grpc")}, more...)...)
			must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b, EndHeaders: true}))
			for _, m := range messages {
				must(f.WriteData(id, false, m))
			}
			if trailer != nil {
				must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(trailer...), EndHeaders: true, EndStream: true}))
			}
		})
	}
	good := []hpack.HeaderField{field("grpc-status", "0")}
	all := []hostileServer{
		{name: "announces four gigabytes", do: answers(nil, nil, message(0, 1<<32-1, []byte("xxx")))},
		{name: "stalls within a message", do: answers(nil, nil, message(0, 100, []byte("xxx")))},
		{name: "sends a compressed bomb", do: func(c net.Conn) {
			b := bomb(32 << 20)
			answers([]hpack.HeaderField{field("grpc-encoding", "gzip")}, nil, chunks(message(1, len(b), b))...)(c)
		}},
		{name: "sends what is not compressed as such", do: answers(nil, good, message(1, 3, []byte("xxx")))},
		{name: "sends what is no message", do: answers(nil, good, message(0, 8, bytes.Repeat([]byte{0xff}, 8)))},
		{name: "sends two messages", do: answers(nil, good, message(0, 0, nil), message(0, 0, nil))},
		{name: "sends no message", do: answers(nil, good)},
		{name: "never sends a trailer", do: answers(nil, nil, message(0, 0, nil))},
		{name: "has a status that can't be", do: answers(nil, []hpack.HeaderField{field("grpc-status", "99999999999999999999"), field("grpc-message", "%zz%")})},
		{name: "has a status of junk", do: answers(nil, []hpack.HeaderField{field("grpc-status", "7"), field("grpc-status-details-bin", strings.Repeat("A", 8000)), field("grpc-message", strings.Repeat("%00", 2000))})},
		{name: "is no gRPC", do: requests(func(f *http2.Framer, id uint32) {
			b := block(field(":status", "200"), field("content-type", "text/html"))
			must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b, EndHeaders: true}))
			must(f.WriteData(id, true, []byte("<html>")))
		})},
	}
	for i := range all {
		all[i].on = "grpc"
	}
	return all
}

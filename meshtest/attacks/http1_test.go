package attacks

import (
	"io"
	"strings"
)

const get = "GET / HTTP/1.1\r\nHost: payments\r\n"

func http1Attacks() []attack {
	says := func(s string) func(p *peer) { return func(p *peer) { write(p.tls(), s) } }
	endless := func(begin, part string) func(p *peer) {
		return func(p *peer) {
			c := p.tls()
			write(c, begin)
			again(16, func(int) { write(c, strings.Repeat(part, 1<<20/len(part)+1)) })
		}
	}
	post := "POST /read HTTP/1.1\r\nHost: payments\r\nTransfer-Encoding: chunked\r\n\r\n"
	all := []attack{
		{name: "stalls within a request line", do: says("GET / HT")},
		{name: "stalls within a header", do: says(get + "X-Fill")},
		{name: "stalls within a body", do: says("POST /read HTTP/1.1\r\nHost: payments\r\nContent-Length: 100\r\n\r\nxxx")},
		{name: "stalls within a chunk", do: says(post + "ff\r\nxxx")},
		{name: "stalls between requests", do: says(get + "\r\n")},
		{name: "sends garbage", do: says(strings.Repeat("\x00\xff\r\n", 1000))},
		{name: "speaks HTTP/2", do: says("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")},
		{name: "sends a header without end", do: endless(get, "X-Filler: "+strings.Repeat("x", 1000)+"\r\n")},
		{name: "sends very many headers", do: endless(get, "a:b\r\n")},
		{name: "sends a field without end", do: endless(get+"X-Filler: ", "xxxxxxxx")},
		{name: "sends a path without end", do: endless("GET /", "xxxxxxxx")},
		{name: "sends a trailer without end", do: endless(post+"0\r\n", "a:b\r\n")},
		{name: "sends chunk extensions without end", do: endless(post+"1", ";x=y")},
		{name: "sends chunks of one byte with extensions", do: endless(post, "1;"+strings.Repeat("x", 1000)+"\r\nx\r\n")},
		{name: "sends a chunk size that overflows", do: says(post + "ffffffffffffffffff\r\nxxx")},
		{name: "sends lengths that can't be", do: func(p *peer) {
			for _, h := range []string{"Content-Length: -1", "Content-Length: 99999999999999999999", "Content-Length: 1\r\nContent-Length: 2",
				"Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: gzip"} {
				write(p.tls(), "POST / HTTP/1.1\r\nHost: payments\r\n"+h+"\r\n\r\n")
			}
		}},
		{name: "sends requests without end", do: func(p *peer) {
			c := p.tls()
			drain(c)
			again(2000, func(int) { write(c, get+"\r\n") })
		}},
		{name: "wants to continue", do: says("POST /read HTTP/1.1\r\nHost: payments\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")},
		{name: "upgrades to what is not there", do: says(get + "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n")},
		{name: "never reads", do: func(p *peer) {
			c := p.tls()
			again(100, func(int) { write(c, "GET /large HTTP/1.1\r\nHost: payments\r\n\r\n") })
		}},
		{name: "reads a byte a second", do: func(p *peer) {
			c := p.tls()
			write(c, "GET /large HTTP/1.1\r\nHost: payments\r\n\r\n")
			p.byteBySecond(c.NetConn())
		}},
		{name: "leaves within a response", do: func(p *peer) {
			c := p.tls()
			write(c, "GET /large HTTP/1.1\r\nHost: payments\r\n\r\n")
			_, _ = io.ReadFull(c, make([]byte, 1000))
			_ = c.NetConn().Close()
		}},
		{name: "has keys updated within a body, and never reads", real: true, do: func(p *peer) {
			r := p.records()
			must(r.record(recordApplication, []byte(post)))
			keyUpdates(r, "1\r\nx\r\n")
		}},
	}
	for i := range all {
		all[i].on = "http1"
	}
	return all
}

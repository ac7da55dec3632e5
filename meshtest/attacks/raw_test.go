package attacks

import (
	"crypto/rand"
	"encoding/binary"
	"strings"
)

// The frames of "mesh/2".
const (
	fData byte = iota + 0xF5
	fEnd
	fReset
	fOpen
	fClose
	fBye
	fPing
	fBrief
)

// bareData is as much as may go without a header.
var bareData = strings.Repeat("x", 16<<10)

func rawFrame(t, epoch byte, payload string) string {
	b := []byte{t, epoch, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(len(payload)))
	return string(b) + payload
}

// keyUpdates makes the server answer key updates that nobody reads. TLS drops a connection after a few without data: each comes with a
// word that makes the server answer nothing.
func keyUpdates(r *records, word string) {
	again(4000, func(int) {
		must(r.record(recordApplication, []byte(word)))
		must(r.keyUpdate(true))
	})
}

func rawAttacks() []attack {
	all := []attack{
		{name: "stalls within a frame header", do: func(p *peer) { write(p.tls(), "\x00\x00") }},
		{name: "stalls within a payload", do: func(p *peer) { write(p.tls(), rawFrame(fData, 0, "xxxxxxxx")[:8]) }},
		{name: "stalls within data without a header", do: func(p *peer) { write(p.tls(), bareData[:9]) }},
		{name: "sends data without a header where there is no stream", do: func(p *peer) {
			for _, before := range []string{rawFrame(fEnd, 0, ""), rawFrame(fClose, 0, ""), rawFrame(fClose, 0, "") + rawFrame(fBrief, 1, "x") + rawFrame(fBrief, 2, "")} {
				write(p.tls(), before, bareData)
			}
		}},
		{name: "sends much of a brief stream without headers, and the next one", do: func(p *peer) {
			c := p.tls()
			write(c, rawFrame(fClose, 0, ""), rawFrame(fBrief, 1, "x"))
			again(100, func(int) { write(c, bareData) })
			write(c, rawFrame(fBrief, 2, "x"))
		}},
		{name: "stalls within a reset", do: func(p *peer) { write(p.tls(), rawFrame(fReset, 0, "xxxxxxxx")[:8]) }},
		{name: "sends garbage", do: func(p *peer) {
			b := make([]byte, 4096)
			_, _ = rand.Read(b)
			write(p.tls(), string(b))
		}},
		{name: "sends a length that can't be", do: func(p *peer) { write(p.tls(), rawFrame(fData, 0, "")[:2]+"\xff\xff"+strings.Repeat("x", 1<<16)) }},
		{name: "sends empty frames", do: func(p *peer) {
			c := p.tls()
			again(2000, func(int) { write(c, rawFrame(fData, 0, "")) })
		}},
		{name: "floods ends", do: func(p *peer) {
			c := p.tls()
			again(2000, func(int) { write(c, rawFrame(fEnd, 0, "")) })
		}},
		{name: "floods opens", do: func(p *peer) {
			c := p.tls()
			drain(c)
			again(2000, func(i int) { write(c, rawFrame(fClose, byte(i), ""), rawFrame(fOpen, byte(i+1), "x")) })
		}},
		{name: "floods opens and never reads", do: func(p *peer) {
			c := p.tls()
			again(2000, func(i int) { write(c, rawFrame(fClose, byte(i), ""), rawFrame(fOpen, byte(i+1), "x")) })
		}},
		{name: "floods brief opens", do: func(p *peer) {
			c := p.tls()
			drain(c)
			again(2000, func(i int) { write(c, rawFrame(fBrief, byte(i+1), "x")) })
		}},
		{name: "floods brief opens after a close, and never reads", do: func(p *peer) {
			c := p.tls()
			write(c, rawFrame(fClose, 0, ""))
			again(5000, func(i int) { write(c, rawFrame(fBrief, byte(i+1), strings.Repeat("x", 100))) })
		}},
		{name: "sends much on a brief stream, and the next one", do: func(p *peer) {
			c := p.tls()
			write(c, rawFrame(fClose, 0, ""), rawFrame(fBrief, 1, "x"))
			again(100, func(int) { write(c, rawFrame(fData, 1, strings.Repeat("x", 16000))) })
			write(c, rawFrame(fBrief, 2, "x"))
		}},
		{name: "floods pings", do: func(p *peer) {
			c := p.tls()
			write(c, rawFrame(fClose, 0, ""))
			again(2000, func(int) { write(c, rawFrame(fPing, 0, "")) })
		}},
		{name: "floods resets", holds: 100 * perConn, do: func(p *peer) {
			again(50, func(int) { write(p.tls(), rawFrame(fReset, 0, "{}"), rawFrame(fReset, 0, "{}")) })
		}},
		{name: "sends frames in an order that can't be", do: func(p *peer) {
			for _, f := range []string{rawFrame(fOpen, 1, ""), rawFrame(fBye, 0, ""), rawFrame(fPing, 0, ""), rawFrame(fData, 9, "x")} {
				write(p.tls(), f)
			}
		}},
		{name: "waits between two streams", do: func(p *peer) { write(p.tls(), rawFrame(fClose, 0, "")) }},
		{name: "sends a byte a second", do: func(p *peer) {
			c := p.tls()
			for _, b := range rawFrame(fData, 0, strings.Repeat("x", 50)) {
				write(c, string(byte(b)))
				p.pause()
			}
		}},
		{name: "never reads", do: func(p *peer) {
			c := p.tls()
			again(1000, func(int) { write(c, rawFrame(fData, 0, strings.Repeat("x", 16000))) })
		}},
		{name: "never reads, and writes without headers", do: func(p *peer) {
			c := p.tls()
			again(1000, func(int) { write(c, bareData) })
		}},
		{name: "reads a byte a second", do: func(p *peer) {
			c := p.tls()
			write(c, strings.Repeat(rawFrame(fData, 0, strings.Repeat("x", 16000)), 10))
			p.byteBySecond(c.NetConn())
		}},
		{name: "has keys updated, and never reads", real: true, do: func(p *peer) { keyUpdates(p.records(), rawFrame(fData, 0, "S")) }},
		{name: "has keys updated between streams, and never reads", real: true, do: func(p *peer) {
			// What the server has sent by the end of the stream all but fills what the network takes.
			r := p.records()
			again(4000, func(i int) {
				must(r.record(recordApplication, []byte(rawFrame(fClose, byte(i), "")+rawFrame(fOpen, byte(i+1), "S"))))
				for range 10 {
					must(r.keyUpdate(true))
				}
			})
		}},
	}
	for i := range all {
		all[i].on = "raw"
	}
	return all
}

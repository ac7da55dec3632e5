package mesh_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/intramesh/mesh"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// serveH2 adds instances of payments whose HTTP/2 is made by hand: answer is called for each request, counted from
// 1 over all of them, and ends the connection by an error.
func (w *world) serveH2(instances int, answer func(f *http2.Framer, stream uint32, n int32) error) (requests *atomic.Int32) {
	w.t.Helper()
	requests = new(atomic.Int32)
	for range instances {
		w.serveH2On(w.listen(w.join("payments"), mesh.ListenOptions{ALPN: []string{"h2"}}), func(f *http2.Framer, stream uint32) error {
			return answer(f, stream, requests.Add(1))
		})
	}
	return requests
}

func (w *world) serveH2On(ln net.Listener, answer func(*http2.Framer, uint32) error) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serveFrames(c, answer)
			})
		}
	})
	w.t.Cleanup(func() { // the client, which joins later, is closed before
		ln.Close()
		wg.Wait()
	})
}

func writeHeader(f *http2.Framer, stream uint32, end bool, fields ...string) error {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		if err := e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			return err
		}
	}
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, EndStream: end, BlockFragment: b.Bytes()})
}

// What HTTP/2 servers say about requests that they did not look at. The texts and types by which net/http
// reports it are not part of its interface: this test notices when they change.
func TestTransportRepeatsWhatTheServerRefused(t *testing.T) {
	for name, refuse := range map[string]func(*http2.Framer, uint32) error{
		"GOAWAY":         func(f *http2.Framer, _ uint32) error { return f.WriteGoAway(0, http2.ErrCodeNo, nil) },
		"REFUSED_STREAM": func(f *http2.Framer, id uint32) error { return f.WriteRSTStream(id, http2.ErrCodeRefusedStream) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ordersMayCallPayments)
			requests := w.serveH2(1, func(f *http2.Framer, id uint32, n int32) error {
				if n == 1 {
					return refuse(f, id)
				}
				return writeHeader(f, id, true, ":status", "200")
			})
			body := strings.NewReader("charge once")
			_, err := do(w.join("orders").HTTPClient(), newRequest(t, http.MethodPost, "http://payments/", body))
			if err != nil || requests.Load() != 2 {
				t.Errorf("%v after %d requests", err, requests.Load())
			}
		})
	}
}

// A server that is killed between the header of its answer and the body.
func TestTransportAnswerBreaksOff(t *testing.T) {
	for _, c := range []struct {
		name, method string
		body         string
		sent         string // of the first answer's body
		requests     int32
	}{
		{"before its body", http.MethodGet, "", "", 2},
		{"before its body, idempotent", http.MethodPost, "body", "", 2},
		{"before its body, not idempotent", http.MethodDelete, "", "", 1},
		{"within its body", http.MethodGet, "", "he", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, ordersMayCallPayments)
			requests := w.serveH2(2, func(f *http2.Framer, id uint32, n int32) error {
				if err := writeHeader(f, id, false, ":status", "200", "content-length", "5"); err != nil {
					return err
				}
				if n > 1 {
					return f.WriteData(id, true, []byte("hello"))
				}
				if c.sent != "" {
					_ = f.WriteData(id, false, []byte(c.sent))
				}
				return net.ErrClosed
			})
			req := newRequest(t, c.method, "http://payments/", strings.NewReader(c.body))
			if c.method == http.MethodPost {
				req.Header.Set("Idempotency-Key", "7")
			}
			got, err := do(w.join("orders").HTTPClient(), req)
			if c.requests == 2 && (err != nil || got != "hello") || c.requests == 1 && err == nil {
				t.Errorf("%q, %v", got, err)
			}
			if n := requests.Load(); n != c.requests {
				t.Errorf("the server had %d requests, want %d", n, c.requests)
			}
		})
	}
}

func TestTransportEjectsWhoBreaksOff(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	requests := w.serveH2(1, func(*http2.Framer, uint32, int32) error { return net.ErrClosed })
	w.serveAs("alive")
	c := w.join("orders").HTTPClient()
	for range 20 {
		if got := get(t, c, "http://payments/"); got != "alive" {
			t.Fatal(got)
		}
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("an endpoint that breaks off was asked %d times within a second, want once", n)
	}
}

// serveFrames speaks as much HTTP/2 as it takes to answer the header of each request.
func serveFrames(c net.Conn, answer func(*http2.Framer, uint32) error) {
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if f.WriteSettings() != nil {
		return
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = f.WritePing(true, frame.Data)
			}
		case *http2.MetaHeadersFrame:
			if frame.PseudoValue("scheme") != "https" {
				return
			}
			err = answer(f, frame.StreamID)
		}
		if err != nil {
			return
		}
	}
}

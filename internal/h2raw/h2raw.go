// Package h2raw is an HTTP/2 client without opinions, for tests that send what no client library would: it puts the fields
// that it is given on the wire as they are (RFC 9113).
package h2raw

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A Field is one field of a request's header, or a pseudo field such as ":path".
type Field struct{ Name, Value string }

// A Response is what a server made of one request.
type Response struct {
	// Refused says that the server reset the stream instead of answering.
	Refused bool
	// Header holds all fields, ":status" and those of a trailer among them; of several with one name, the last.
	Header map[string]string
	Body   []byte
}

// A Conn is the client's side of a connection. It makes one request at a time.
type Conn struct {
	c      io.ReadWriter
	framer *http2.Framer
	dec    *hpack.Decoder
	enc    *hpack.Encoder
	block  bytes.Buffer
	stream uint32
	fields map[string]string
}

// New begins HTTP/2 on a connection, on which the server has accepted it. The caller keeps it, and closes it.
func New(c io.ReadWriter) (*Conn, error) {
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return nil, fmt.Errorf("h2raw: %w", err)
	}
	h := &Conn{c: c, framer: http2.NewFramer(c, c), stream: 1}
	h.enc = hpack.NewEncoder(&h.block)
	h.dec = hpack.NewDecoder(4096, func(f hpack.HeaderField) { h.fields[f.Name] = f.Value })
	if err := h.framer.WriteSettings(); err != nil {
		return nil, fmt.Errorf("h2raw: %w", err)
	}
	return h, nil
}

// Do sends a request and waits for the whole response. An error means that the connection is over.
func (h *Conn) Do(body []byte, fields ...Field) (*Response, error) {
	r, err := h.do(body, fields)
	if err != nil {
		return nil, fmt.Errorf("h2raw: %w", err)
	}
	return r, nil
}

// Open sends the head of a request, does not wait for anything, and returns the stream.
func (h *Conn) Open(fields ...Field) (uint32, error) { return h.open(false, fields) }

// Reset gives a request up.
func (h *Conn) Reset(stream uint32) error {
	return h.framer.WriteRSTStream(stream, http2.ErrCodeCancel) //nolint:wrapcheck // for tests
}

func (h *Conn) open(end bool, fields []Field) (uint32, error) {
	id := h.stream
	h.stream += 2
	h.block.Reset()
	for _, f := range fields {
		if err := h.enc.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value}); err != nil {
			return 0, fmt.Errorf("h2raw: %w", err)
		}
	}
	err := h.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: h.block.Bytes(), EndHeaders: true, EndStream: end,
	})
	if err != nil {
		return 0, fmt.Errorf("h2raw: %w", err)
	}
	return id, nil
}

func (h *Conn) do(body []byte, fields []Field) (*Response, error) {
	id, err := h.open(body == nil, fields)
	if err == nil && body != nil {
		err = h.framer.WriteData(id, true, body)
	}
	if err != nil {
		return nil, err
	}
	r := &Response{Header: make(map[string]string)}
	h.fields = r.Header
	for {
		f, err := h.framer.ReadFrame()
		if err != nil {
			return nil, err
		}
		ours := f.Header().StreamID == id
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = h.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = h.framer.WritePing(true, f.Data)
			}
		case *http2.GoAwayFrame:
			if f.LastStreamID < id {
				return nil, errors.New("the server goes away: " + f.ErrCode.String())
			}
		case *http2.HeadersFrame:
			if _, err = h.dec.Write(f.HeaderBlockFragment()); err == nil && ours && f.StreamEnded() {
				return r, nil
			}
		case *http2.DataFrame:
			if f.Length > 0 {
				err = h.framer.WriteWindowUpdate(0, f.Length) // a stream's own window is enough for what tests send
			}
			if !ours {
				break
			}
			r.Body = append(r.Body, f.Data()...)
			if f.StreamEnded() {
				return r, err
			}
		case *http2.RSTStreamFrame:
			if ours {
				r.Refused = len(r.Header) == 0
				return r, nil
			}
		}
		if err != nil {
			return nil, err
		}
	}
}

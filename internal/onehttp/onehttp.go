// Package onehttp speaks HTTP/1.1 on one connection: a request, its answer, and perhaps the next request. The calls
// to the control plane need no more, and a program that uses no HTTP itself is a megabyte smaller without
// net/http's client and server, and 60 KB without what reads its messages.
package onehttp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxHeader bounds the headers of a message, maxLine each of them.
const (
	maxHeader = 64 << 10
	maxLine   = 16 << 10
)

// ErrTooLarge is inside the error for an answer that is larger than the caller's limit.
var ErrTooLarge = errors.New("the answer is too large")

// A Conn carries requests one after the other. It is not safe for concurrent use.
type Conn struct {
	// Silence bounds how long the server may say nothing before its answer; a status of 1xx is a word. 0 is any time.
	Silence time.Duration

	conn net.Conn
	in   *bufio.Reader
	src  *io.LimitedReader
}

// NewConn takes over c.
func NewConn(c net.Conn) *Conn {
	src := &io.LimitedReader{R: c}
	return &Conn{conn: c, in: bufio.NewReaderSize(src, maxLine), src: src}
}

// Close closes the connection.
func (c *Conn) Close() error { return c.conn.Close() }

// Do sends a request, with a body of JSON unless it is nil (a GET has none), and returns the status and the body of the answer, of
// at most limit bytes. It follows no redirect. When ctx ends the connection is closed. After an error, and when reuse is false, the
// connection can only be closed.
func (c *Conn) Do(ctx context.Context, method string, u *url.URL, json []byte, limit int64) (status int, body []byte, reuse bool, err error) {
	defer context.AfterFunc(ctx, func() { _ = c.conn.Close() })()
	defer func() {
		if ctx.Err() != nil && err != nil {
			err = context.Cause(ctx)
		}
	}()
	if _, err := c.conn.Write(request(method, u, json)); err != nil {
		return 0, nil, false, err
	}
	c.src.N = maxHeader + limit
	h, status, err := c.next()
	for err == nil && status < http.StatusOK {
		h, status, err = c.next() // 1xx
	}
	if err != nil {
		return 0, nil, false, fmt.Errorf("no answer: %w", unexpected(err))
	}
	if status == http.StatusNoContent || status == http.StatusNotModified {
		return status, nil, !h.last, nil
	}
	if body, err = h.body(c.in, limit); err != nil {
		return 0, nil, false, unexpected(err)
	}
	return status, body, !h.last, nil
}

// request is a request as it is sent. A [http.Request] that writes itself would be 80 KB of every program.
func request(method string, u *url.URL, json []byte) []byte {
	target := "/" + strings.TrimPrefix(u.RequestURI(), "/") // [url.URL.JoinPath] may have left none
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: mesh\r\nAccept: application/json\r\n", method, target, u.Host)
	if json != nil {
		b = append(b, "Content-Type: application/json\r\n"...)
	}
	if method != http.MethodGet {
		b = fmt.Appendf(b, "Content-Length: %d\r\n", len(json))
	}
	return append(append(b, "\r\n"...), json...)
}

// next reads the next head of a response.
func (c *Conn) next() (h head, status int, err error) {
	if c.Silence != 0 {
		if err := c.conn.SetReadDeadline(time.Now().Add(c.Silence)); err != nil {
			return h, 0, err
		}
	}
	if h, err = readHead(c.in); err == nil {
		status, err = h.status()
	}
	if err == nil && c.Silence != 0 {
		err = c.conn.SetReadDeadline(time.Time{})
	}
	return h, status, err
}

// Serve reads one request without a body and sends h's answer. It does not close c.
func Serve(c net.Conn, h func(method string, u *url.URL) (status int, body []byte)) error {
	in, err := readHead(bufio.NewReaderSize(io.LimitReader(c, maxHeader), maxLine))
	if err != nil {
		return err
	}
	parts := strings.Split(in.line, " ")
	if len(parts) != 3 || parts[2] != "HTTP/1.1" || in.chunked || in.length > 0 {
		return fmt.Errorf("%w: the request %.64q", errMalformed, in.line)
	}
	u, err := url.ParseRequestURI(parts[1])
	if err != nil {
		return err
	}
	status, body := h(parts[0], u)
	out := fmt.Appendf(nil, "HTTP/1.1 %d \r\nConnection: close\r\n", status)
	if status != http.StatusNoContent {
		out = fmt.Appendf(out, "Content-Length: %d\r\n", len(body))
	}
	_, err = c.Write(append(append(out, "\r\n"...), body...))
	return err
}

package onehttp_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/intramesh/mesh/internal/onehttp"
)

// script is a connection to a server that says the same to everybody, and then no more.
type script struct {
	net.Conn
	r io.Reader
}

func (s script) Read(p []byte) (int, error)  { return s.r.Read(p) }
func (s script) Write(p []byte) (int, error) { return len(p), nil }
func (s script) Close() error                { return nil }

func answer(t *testing.T, text string) (status int, body []byte, reuse bool, err error) {
	return onehttp.NewConn(script{r: strings.NewReader(text)}).Do(t.Context(), http.MethodGet, to("/"), nil, 1000)
}

func TestAnswers(t *testing.T) {
	for _, x := range []struct {
		text  string
		body  string
		reuse bool
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", "ab", true},
		{"HTTP/1.1 200\r\ncontent-length:2\r\n\r\nab", "ab", true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", "ab", true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close\r\n\r\nab", "ab", false},
		{"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab", false},
		{"HTTP/1.1 200 OK\r\n\r\nuntil the end", "until the end", false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nA: b\r\n\r\n", "abc", true},
		{"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab", true},
		{"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 10_000) + "\r\nContent-Length: 2\r\n\r\nab", "ab", true},
	} {
		status, body, reuse, err := answer(t, x.text)
		if err != nil || status != 200 || string(body) != x.body || reuse != x.reuse {
			t.Errorf("%.80q: %d %q %v %v", x.text, status, body, reuse, err)
		}
	}
	for text, want := range map[string]error{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab":                                  io.ErrUnexpectedEOF,
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n":                                        io.ErrUnexpectedEOF,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n":                io.ErrUnexpectedEOF,
		"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n":                                 onehttp.ErrTooLarge,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\nab\r\n": onehttp.ErrTooLarge,
		"HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 1001):                             onehttp.ErrTooLarge,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc":            nil,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n": nil,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n":            nil,
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":                  nil,
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n":                                   nil,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n Content-Length: 3\r\n\r\nabc":           nil,
		"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nab":                                 nil,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n":      nil,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8000000000000000\r\nab\r\n": nil,
		"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nab":                                   nil,
		"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nab":                                  nil,
		"SSH-2.0-OpenSSH\r\n": nil,
	} {
		if status, body, _, err := answer(t, text); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%.80q: %d %q %v, want %v", text, status, body, err, want)
		}
	}
}

// What is read here and by net/http is the same.
func FuzzAnswer(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc")
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nA: b\r\n\r\n")
	f.Add("HTTP/1.0 404 no\r\nConnection: keep-alive\r\n\r\nab")
	f.Add("HTTP/1.1 204\r\nContent-Length: 2\r\n\r\nab")
	f.Fuzz(func(t *testing.T, text string) {
		status, body, reuse, err := answer(t, text)
		if err != nil {
			return
		}
		resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil)
		if err != nil || resp.StatusCode < 200 {
			return // stricter
		}
		defer resp.Body.Close()
		want, err := io.ReadAll(resp.Body)
		if err != nil {
			return
		}
		if status != resp.StatusCode || !bytes.Equal(body, want) || reuse && resp.Close {
			t.Errorf("%d %q reuse %v; net/http reads %d %q close %v", status, body, reuse, resp.StatusCode, want, resp.Close)
		}
	})
}

func TestServeRefuses(t *testing.T) {
	for _, text := range []string{
		"", "\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET  / HTTP/1.1\r\n\r\n", "GET x HTTP/1.1\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/1.1\r\n",
		"GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nX: " + strings.Repeat("y", 64<<10) + "\r\n\r\n",
	} {
		if err := onehttp.Serve(script{r: strings.NewReader(text)}, nil); err == nil {
			t.Errorf("%.80q was taken for a request", text)
		}
	}
}

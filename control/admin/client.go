package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"

	"github.com/intramesh/mesh/internal/wire"
)

// A Client talks to the control plane. It is safe for concurrent use. Its errors are an
// [*Error] when the control plane refused, and an [*UnreachableError] when it did not answer.
type Client struct {
	http http.Client
	base string // of URLs
	at   string // for messages
}

var _ Backend = (*Client)(nil)

// An UnreachableError says that no control plane answers in a directory, or at a URL.
type UnreachableError struct {
	At  string
	Err error
}

// Error says what to do.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("admin: no control plane answers in %s (is mesh serve running there?): %v", e.At, e.Err)
}

// Unwrap returns Err.
func (e *UnreachableError) Unwrap() error { return e.Err }

// requestTimeout bounds a call whose context has no deadline.
const requestTimeout = 30 * time.Second

// starting is how long a control plane that was just started may need until it answers.
const starting = 3 * time.Second

// NewClient returns a client of the control plane that serves dir. It does not connect yet. A call waits for a control plane that
// does not answer for three seconds, since it may just be starting.
func NewClient(dir string) (*Client, error) {
	path, err := SocketPath(dir)
	if err != nil {
		return nil, err
	}
	c := &Client{base: "http://admin", at: dir}
	c.http = http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialStarting(ctx, dir, path)
		}},
	}
	return c, nil
}

func dialStarting(ctx context.Context, dir, socket string) (net.Conn, error) {
	for end := time.Now().Add(starting); ; {
		c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(end) {
			return c, err
		}
		if _, noDir := os.Stat(dir); noDir != nil {
			return nil, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// Close closes idle connections. Calls may still be made; they connect anew.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("admin: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body) //nolint:gosec // the operator names the server
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	resp, err := c.http.Do(req) //nolint:gosec // the operator names the server
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 2*wire.MaxBundleBytes))
	if err != nil {
		return &UnreachableError{c.at, err}
	}
	if resp.StatusCode != http.StatusOK {
		e := &Error{Status: resp.StatusCode}
		if json.Unmarshal(data, e) != nil || e.Message == "" {
			e.Message = resp.Status
		}
		return e
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("admin: answer of %s: %w", path, err)
	}
	return nil
}

func (c *Client) unreachable(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok { // its URL adds nothing
		err = e.Err
	}
	return &UnreachableError{c.at, err}
}

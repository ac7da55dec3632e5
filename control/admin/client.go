// Package admin is the operator's interface to a running control plane: HTTP with JSON
// over the unix socket admin.sock in its directory. Who may open the socket may do
// everything.
package admin

import (
	"context"
	"time"

	"github.com/intramesh/mesh"
)

// A Client talks to the control plane. It is safe for concurrent use.
type Client struct{}

// NewClient returns a client of the control plane that serves dir. It does not connect yet.
func NewClient(dir string) (*Client, error) { panic("not built yet") }

// Token returns what a new process of service needs to join, a one-time token included.
// A ttl of 0 means the control plane's default.
func (c *Client) Token(ctx context.Context, service string, ttl time.Duration) (*mesh.Bootstrap, error) {
	panic("not built yet")
}

// Package files is discovery from a file that something else keeps up to date: a person, a deployment tool, a Kubernetes
// ConfigMap.
//
// The file is JSON:
//
//	{"endpoints": [
//	  {"service": "payments", "address": "192.0.2.1:8443", "zone": "eu-west-1a"},
//	  {"service": "payments", "address": "192.0.2.2:8443", "weight": 2, "state": "draining"},
//	  {"service": "billing/invoices", "port": "admin", "address": "[2001:db8::1]:9000", "instance": "invoices-0"}
//	]}
//
// A service and an address are needed. Without a port it is the service's default one, without an instance the
// address stands for it, the weight is then 1 and the state "ready". "also" lists up to three other IP addresses of
// the same process. What is not one of these fields is an error.
package files

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/internal/table"
)

const (
	defaultPoll = time.Second
	maxBytes    = 4 << 20
)

// A Config names a file. It is copied.
type Config struct {
	// Path is that of the file, of at most 4 MiB.
	Path string
	// Poll is how often it is read again; 0 means a second.
	Poll time.Duration
	// Logger is told of changes, and of those that could not be taken; nil discards.
	Logger *slog.Logger
}

// A Source is a [discovery.Resolver] that follows a file. Contents are compared, not times, so a rename, a switched symbolic
// link (a ConfigMap) and a rewrite in place are all noticed. While a file is gone or has an error, what it said before
// counts. It is safe for concurrent use.
type Source struct {
	cfg    Config
	table  *table.Table
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Open reads the file; it is an error when that can't be read, and a [*ParseError] when it is not as it should be. The
// caller closes the source.
func Open(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg, table: table.New()}
	if s.cfg.Logger == nil {
		s.cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if s.cfg.Poll <= 0 {
		s.cfg.Poll = defaultPoll
	}
	data, err := read(cfg.Path)
	if err == nil {
		err = s.take(data)
	}
	if err != nil {
		return nil, fmt.Errorf("discovery: files: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() { s.run(ctx, data) })
	return s, nil
}

// Lookup implements [discovery.Resolver].
func (s *Source) Lookup(service string) discovery.Snapshot { return s.table.Lookup(service) }

// Close stops reading the file; what it said last stays. It always returns nil.
func (s *Source) Close() error {
	s.cancel()
	s.wg.Wait()
	return nil
}

// run takes what changes until ctx is done, and reports each reason not to once.
func (s *Source) run(ctx context.Context, seen []byte) {
	tick := time.NewTicker(s.cfg.Poll)
	defer tick.Stop()
	var trouble string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		data, err := read(s.cfg.Path)
		if err == nil {
			if trouble == "" && bytes.Equal(seen, data) {
				continue
			}
			seen, err = data, s.take(data)
		}
		switch {
		case err == nil:
			trouble = ""
		case err.Error() != trouble:
			trouble = err.Error()
			s.cfg.Logger.Warn("discovery: the file changed, but could not be taken: what it said before counts", "error", err)
		}
	}
}

// take makes what a file says known.
func (s *Source) take(data []byte) error {
	endpoints, err := Parse(s.cfg.Path, data)
	if err != nil {
		return err
	}
	s.table.Replace(endpoints)
	s.cfg.Logger.Info("discovery: the file was read", "file", s.cfg.Path, "endpoints", len(endpoints))
	return nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err == nil && len(data) > maxBytes {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxBytes)
	}
	return data, err
}

package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"github.com/intramesh/mesh/internal/atomicfile"
)

// Addresses are "host:port" of a control plane, with the ports that were chosen.
type Addresses struct {
	// CA is the certificate authority's HTTPS.
	CA string `json:"ca"`
	// Mesh takes members' connections.
	Mesh string `json:"mesh"`
	// Gossip is used for UDP and TCP.
	Gossip string `json:"gossip"`
	// Admin takes operators from elsewhere; "" for none.
	Admin string `json:"admin,omitempty"`
}

// Those that a server listens on are in run.json, since members that enrolled know the ports.

func loadAddresses(dir string) (a Addresses, err error) {
	data, err := os.ReadFile(filepath.Join(dir, runFile))
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("%s: %w", filepath.Join(dir, runFile), err)
	}
	return a, nil
}

func (a Addresses) save(dir string) error {
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, runFile), append(data, '\n'), 0o600)
}

// bind calls try with the address of the settings; when that leaves the port open, first with the
// port of the last run.
func bind(log *slog.Logger, what, want, last string, try func(addr string) error) error {
	host, port, err := net.SplitHostPort(want)
	if err != nil {
		return err
	}
	if _, lastPort, err := net.SplitHostPort(last); port == "0" && err == nil {
		err := try(net.JoinHostPort(host, lastPort))
		if !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		log.Warn("the port of the last run is taken: members that know it will not find it", "what", what, "port", lastPort)
	}
	return try(want)
}

// advertised is the IP address behind Settings.Advertise. When a name can't be resolved it is
// the zero Addr, and gossip chooses by itself.
func advertised(ctx context.Context, host string) netip.Addr {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap()
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(ips) == 0 {
		return netip.Addr{}
	}
	return ips[0].Unmap()
}

// gossipBind turns "localhost:0" or ":7442" into an address to bind.
func gossipBind(addr string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch host {
	case "":
		host = "::"
	case "localhost":
		host = "127.0.0.1"
	}
	return netip.ParseAddrPort(net.JoinHostPort(host, port))
}

package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// process is one end of one contender, in a process of its own.
type process struct {
	addrs  map[string]string
	server serverEnd
	client clientEnd
	run    *run

	open, made atomic.Int64 // connections of the HTTP services
}

func newProcess(s setup) (*process, error) {
	if s.Role == roleFleet {
		return serveFleet(s.Addrs)
	}
	p := new(process)
	m, err := loadMaterial(s.Dir)
	if err != nil {
		return nil, err
	}
	name, web := heldTo(s.Contender)
	// A sidecar's own two ends speak plaintext to the proxies.
	stack := plaintext()
	switch name {
	case nameTLS:
		stack = cryptoTLS(m)
	case nameSPIFFE:
		stack = goSPIFFE(m)
	}
	switch {
	case s.Role == "client" && (name == nameOurs || name == nameHost):
		var c clientEnd
		if c, err = ourClient(m, s.Addrs, networkOf(name)); err == nil {
			p.client = c.shared(web)
		}
	case s.Role == "client":
		p.client = stack.clientEnd(s.Addrs).shared(web)
	case name == nameOurs || name == nameHost:
		if p.server, err = ourServer(m, networkOf(name)); err == nil {
			err = p.serve(svcRaw, svcCold, svcHTTP1, svcHTTP2, svcWeb, svcGRPC)
		}
	default:
		p.server = stack.serverEnd()
		err = p.serve(svcRaw, svcHTTP1, svcHTTP2, svcWeb, svcGRPC)
	}
	return p, err
}

// serve listens for services. The process's end ends it.
func (p *process) serve(services ...string) error {
	p.addrs = make(map[string]string)
	for _, service := range services {
		ln, err := p.server.listen(service)
		if err != nil {
			return err
		}
		p.addrs[service] = ln.Addr().String()
		switch service {
		case svcRaw, svcCold:
			go serveRaw(ln)
		case svcGRPC:
			go serveGRPC(p.server.grpc(), ln)
		default:
			go p.serveHTTP(service, ln)
		}
	}
	return nil
}

func (p *process) serveHTTP(service string, ln net.Listener) {
	h := http.Handler(http.HandlerFunc(sendBytes))
	if p.server.wrap != nil {
		h = p.server.wrap(service, h)
	}
	s := &http.Server{Handler: h, Protocols: new(http.Protocols)} //nolint:gosec // it serves the bench alone
	s.Protocols.SetHTTP1(service != svcHTTP2)
	s.Protocols.SetHTTP2(service != svcHTTP1)
	s.Protocols.SetUnencryptedHTTP2(service == svcHTTP2)
	s.ConnState = p.count
	_ = s.Serve(ln)
}

// count follows how many connections the HTTP services have open.
func (p *process) count(_ net.Conn, s http.ConnState) {
	switch s { //nolint:exhaustive // the others are in between
	case http.StateNew:
		p.made.Add(1)
		p.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		p.open.Add(-1)
	}
}

func (p *process) do(c command) (reply, error) {
	switch c.Op {
	case "usage":
		return reply{Usage: ownUsage(), Open: int(p.open.Load()), Made: int(p.made.Load())}, nil
	case "settle":
		debug.FreeOSMemory()
		return reply{}, nil
	case "change":
		if p.server.change == nil {
			return reply{}, errors.New("there are no rules to change")
		}
		began := time.Now()
		return reply{Began: began}, p.server.change(c.On)
	case "prepare":
		var err error
		p.run, err = prepare(p.client, c.Load)
		return reply{}, err
	case "go":
		if p.run == nil {
			return reply{}, errors.New("nothing was prepared")
		}
		s, u, err := p.run.measure()
		return reply{Sample: s, Usage: u}, err
	case "finish":
		if p.run != nil {
			p.run.finish()
			p.run = nil
		}
		return reply{}, nil
	}
	return reply{}, fmt.Errorf("unknown command %q", c.Op)
}

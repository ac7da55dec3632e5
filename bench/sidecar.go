package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A sidecar is a proxy that runs beside the client and beside the server, with mutual TLS between the two. The
// programs themselves speak plaintext to them, as in a mesh of sidecars.
type sidecar struct {
	program string
	// commands returns the files to write, and how to start the proxy of one end with them.
	commands func(p proxy) (files map[string]string, args [][]string)
}

// proxy describes one of the pair.
type proxy struct {
	end     string // "client" or "server"
	dir     string // scratch, of its own
	certs   string // see makeMaterial
	tunnels []tunnel
}

type tunnel struct{ name, listen, target string }

// sidecars returns those that we know, by the contender's name.
func sidecars() map[string]sidecar {
	return map[string]sidecar{
		"nginx":      {"nginx", nginx},
		"haproxy":    {"haproxy", haproxy},
		"stunnel":    {"stunnel", stunnel},
		"ghostunnel": {"ghostunnel", ghostunnel},
	}
}

func each(tunnels []tunnel, f func(t tunnel) string) string {
	var b strings.Builder
	for _, t := range tunnels {
		b.WriteString(f(t))
	}
	return b.String()
}

func nginx(p proxy) (map[string]string, [][]string) {
	prefix, side := "ssl", "listen %s ssl; proxy_pass %s;"
	verify := fmt.Sprintf("ssl_verify_client on; ssl_verify_depth 3; ssl_client_certificate %s/roots.pem;", p.certs)
	if p.end == clientName {
		prefix, side = "proxy_ssl", "listen %s; proxy_ssl on; proxy_pass %s;"
		verify = fmt.Sprintf("proxy_ssl_verify on; proxy_ssl_verify_depth 3; proxy_ssl_name %s; proxy_ssl_trusted_certificate %s/roots.pem;", serverName, p.certs)
	}
	// Debian has the stream module as a file, other builds within.
	module := ""
	if _, err := os.Stat("/usr/lib/nginx/modules/ngx_stream_module.so"); err == nil {
		module = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;"
	}
	conf := fmt.Sprintf("%s daemon off; worker_processes auto; pid %s/pid; error_log stderr crit; events { worker_connections 8192; }\n"+
		"stream { tcp_nodelay on; %[3]s_protocols TLSv1.3; %[3]s_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; %[3]s_certificate %[4]s/cert.pem; %[3]s_certificate_key %[4]s/key.pem; %[5]s\n",
		module, p.dir, prefix, p.certs, verify)
	conf += each(p.tunnels, func(t tunnel) string { return fmt.Sprintf("server { "+side+" }\n", t.listen, t.target) }) + "}\n"
	return map[string]string{"nginx.conf": conf}, [][]string{{"-p", p.dir, "-e", "stderr", "-c", filepath.Join(p.dir, "nginx.conf")}}
}

func haproxy(p proxy) (map[string]string, [][]string) {
	suites := "TLS_AES_128_GCM_SHA256"
	conf := fmt.Sprintf("global\n  ssl-default-bind-ciphersuites %[1]s\n  ssl-default-server-ciphersuites %[1]s\n  maxconn 4096\n"+
		"defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n", suites)
	tls := fmt.Sprintf("ssl crt %[1]s/all.pem ca-file %[1]s/roots.pem verify required ssl-min-ver TLSv1.3", p.certs)
	conf += each(p.tunnels, func(t tunnel) string {
		if p.end == clientName {
			return fmt.Sprintf("listen %s\n  bind %s\n  server s %s %s verifyhost %s\n", t.name, t.listen, t.target, tls, serverName)
		}
		return fmt.Sprintf("listen %s\n  bind %s %s\n  server s %s\n", t.name, t.listen, tls, t.target)
	})
	return map[string]string{"haproxy.cfg": conf}, [][]string{{"-db", "-q", "-f", filepath.Join(p.dir, "haproxy.cfg")}}
}

func stunnel(p proxy) (map[string]string, [][]string) {
	side := "client = no"
	if p.end == clientName {
		side = "client = yes\ncheckHost = " + serverName
	}
	conf := fmt.Sprintf("foreground = yes\npid =\ndebug = err\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n%s\ncert = %[2]s/cert.pem\nkey = %[2]s/key.pem\nCAfile = %[2]s/roots.pem\nverifyChain = yes\nrequireCert = yes\nsslVersionMin = TLSv1.3\nciphersuites = TLS_AES_128_GCM_SHA256\n", side, p.certs)
	conf += each(p.tunnels, func(t tunnel) string {
		return fmt.Sprintf("[%s]\naccept = %s\nconnect = %s\n", t.name, t.listen, t.target)
	})
	return map[string]string{"stunnel.conf": conf}, [][]string{{filepath.Join(p.dir, "stunnel.conf")}}
}

func ghostunnel(p proxy) (map[string]string, [][]string) {
	var all [][]string
	for _, t := range p.tunnels {
		args := []string{
			"--quiet=all", "--cert", filepath.Join(p.certs, "cert.pem"), "--key", filepath.Join(p.certs, "key.pem"),
			"--cacert", filepath.Join(p.certs, "roots.pem"), p.end, "--listen", t.listen, "--target", t.target,
		}
		if p.end == clientName {
			args = append(args, "--override-server-name", serverName)
		} else {
			args = append(args, "--allow-uri", "spiffe://"+trustDomain+"/"+clientName)
		}
		all = append(all, args)
	}
	return nil, all
}

// start runs both proxies in front of addrs, and returns the addresses for the client.
func (s sidecar) start(ctx context.Context, dir string, addrs map[string]string) (_ []*exec.Cmd, front map[string]string, err error) {
	path, err := program(s.program)
	if err != nil {
		return nil, nil, err
	}
	var cmds []*exec.Cmd
	defer func() {
		if err != nil {
			stopProxies(cmds)
		}
	}()
	for _, end := range []string{serverName, clientName} {
		p := proxy{end: end, certs: filepath.Join(dir, end)}
		if p.dir, err = os.MkdirTemp(dir, s.program); err != nil {
			return nil, nil, err
		}
		front = make(map[string]string)
		for service, target := range addrs {
			if front[service], err = freeAddr(); err != nil {
				return nil, nil, err
			}
			p.tunnels = append(p.tunnels, tunnel{service, front[service], target})
		}
		files, commands := s.commands(p)
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o600); err != nil {
				return nil, nil, err
			}
		}
		for _, args := range commands {
			cmd := exec.Command(path, args...) //nolint:gosec,noctx // one of four programs; it is ended by stopProxies, gently
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				return nil, nil, err
			}
			cmds = append(cmds, cmd)
		}
		for _, t := range p.tunnels {
			if err := waitFor(ctx, t.listen); err != nil {
				return nil, nil, err
			}
		}
		addrs = front
	}
	return cmds, front, nil
}

func stopProxies(cmds []*exec.Cmd) {
	for _, c := range cmds {
		_ = c.Process.Signal(os.Interrupt)
		t := time.AfterFunc(5*time.Second, func() { _ = c.Process.Kill() })
		_ = c.Wait()
		t.Stop()
	}
}

func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a local address
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// waitFor returns once something listens.
func waitFor(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("nothing listens at %s", addr), err)
		}
	}
}

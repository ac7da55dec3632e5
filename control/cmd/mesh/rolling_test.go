package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"

	member "github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshgrpc"
)

// asInstance makes the test's binary an instance of payments instead; its value is the bootstrap.
const asInstance = "MESH_TEST_INSTANCE"

// instance answers over HTTP on the default port, echoes on the port "raw" and speaks gRPC on the port "grpc", until it is terminated:
// then it shuts down as a service does.
func instance() error {
	term, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	b, err := member.ParseBootstrap(os.Getenv(asInstance))
	if err != nil {
		return err
	}
	m, err := member.Join(term, member.Config{Bootstrap: b, Advertise: "127.0.0.1"})
	if err != nil {
		return err
	}
	defer m.Close()
	web, err := m.Listen(term, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	raw, err := m.Listen(term, "tcp", "127.0.0.1:0", member.ListenOptions{Port: "raw"})
	if err != nil {
		return err
	}
	rpc, err := m.Listen(term, "tcp", "127.0.0.1:0", member.ListenOptions{Port: "grpc"})
	if err != nil {
		return err
	}
	calls := grpc.NewServer(meshgrpc.ServerOptions(m, "grpc")...)
	pb.RegisterTestServiceServer(calls, &answering{term: term.Done()})
	go func() { _ = calls.Serve(rpc) }()
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-time.After(5 * time.Millisecond) // so that something is always in flight
		_, _ = io.WriteString(w, "done")
	}))}
	go func() { _ = srv.Serve(web) }()
	go func() {
		for {
			c, err := raw.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	fmt.Println("ready")
	<-term.Done()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	calls.GracefulStop()
	return m.Shutdown(ctx)
}

// answering is the gRPC service of an instance.
type answering struct {
	pb.UnimplementedTestServiceServer
	term <-chan struct{}
}

func (*answering) UnaryCall(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	<-time.After(5 * time.Millisecond)
	return &pb.SimpleResponse{}, nil
}

// StreamingOutputCall goes on until the instance is terminated.
func (a *answering) StreamingOutputCall(_ *pb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	for {
		if err := s.Send(&pb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-a.term:
			return nil
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// FullDuplexCall answers each message until the caller has no more.
func (*answering) FullDuplexCall(s grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		_, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&pb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

// startInstance starts one and waits until it serves.
func startInstance(t *testing.T, b *member.Bootstrap) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), asInstance+"="+b.Encode())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // may have been waited for
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd
}

// tallies counts calls and failures by protocol.
type tallies struct {
	mu     sync.Mutex
	calls  map[string]int
	failed map[string][]error
}

func (c *tallies) add(protocol string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[protocol]++
	if err != nil {
		c.failed[protocol] = append(c.failed[protocol], err)
	}
}

func (c *tallies) report() (calls map[string]int, failed int, errs error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for protocol, all := range c.failed {
		failed += len(all)
		errs = errors.Join(errs, fmt.Errorf("%s: %d failed, the first: %w", protocol, len(all), all[0]))
	}
	return maps.Clone(c.calls), failed, errs
}

// TestRollingRestart: instances of a service are replaced one after the other while others call it all the time, over HTTP with requests
// that may not be repeated, on connections of their own, and over gRPC: calls, conversations of a hundred milliseconds, and streams that go on until
// the instance ends them. No call fails. When instances are killed instead, what fails is
// no more than what was in flight on them.
func TestRollingRestart(t *testing.T) {
	dir := newPlane(t)
	p := serve(t, dir)
	c := p.client(t)
	must(t, dir, strings.ReplaceAll(rules, "\n    to: [{methods: [POST], paths: [\"/charge\"]}]", ""), "policy", "apply", "-f", "-")
	orders := joinAs(t, member.Config{Bootstrap: token(t, c, "orders"), Advertise: "127.0.0.1"})
	var running []*exec.Cmd
	for range 3 {
		running = append(running, startInstance(t, token(t, c, "payments")))
	}
	known := func(n int) {
		t.Helper()
		within(t, "all instances are known", func(context.Context) error {
			ready := 0
			for _, ep := range orders.Discovery().Lookup("payments").Endpoints {
				if !ep.Suspect && ep.Port == "" {
					ready++
				}
			}
			if ready != n {
				return fmt.Errorf("%d ready", ready)
			}
			return nil
		})
	}
	known(3)
	cc, err := meshgrpc.NewClient(orders, "payments:grpc")
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	service := pb.NewTestServiceClient(cc)
	const workers = 4
	kinds := map[string]func(context.Context) error{
		"HTTP":         func(ctx context.Context) error { return charge(ctx, orders) },
		"raw":          func(ctx context.Context) error { return echoOnce(ctx, orders) },
		"unary":        func(ctx context.Context) error { return unary(ctx, service) },
		"conversation": func(ctx context.Context) error { return converse(ctx, service) },
	}
	load := func(replace func(i int)) (map[string]int, int, error) {
		count := &tallies{calls: map[string]int{}, failed: map[string][]error{}}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for name, call := range kinds {
			for range workers {
				wg.Go(func() {
					for ctx.Err() == nil {
						one, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						count.add(name, call(one))
						cancel()
					}
				})
			}
		}
		for range workers {
			wg.Go(func() {
				for ctx.Err() == nil {
					count.add("stream", untilTheEnd(ctx, service))
				}
			})
		}
		for range nightly(1, 5) {
			for i := range running {
				replace(i)
			}
		}
		stop()
		wg.Wait()
		return count.report()
	}
	calls, failed, err := load(func(i int) {
		next := startInstance(t, token(t, c, "payments"))
		known(4)
		if err := running[i].Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := running[i].Wait(); err != nil {
			t.Errorf("an instance did not end well: %v", err)
		}
		running[i] = next
		known(3)
	})
	t.Logf("restarted one by one: calls %v, %d failed", calls, failed)
	if failed > 0 || min(calls["HTTP"], calls["raw"], calls["unary"]) < 100 || min(calls["conversation"], calls["stream"]) < 2*workers {
		t.Errorf("of %v: %v", calls, err)
	}
	kills := 0
	calls, failed, err = load(func(i int) {
		if err := running[i].Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = running[i].Wait() // killed
		kills++
		before := instances(orders)
		running[i] = startInstance(t, token(t, c, "payments"))
		within(t, "the new instance is known", func(context.Context) error {
			for name := range instances(orders) {
				if !before[name] {
					return nil
				}
			}
			return errors.New("not yet")
		})
	})
	t.Logf("%d killed: calls %v, %d failed: %v", kills, calls, failed, err)
	if failed > kills*(len(kinds)+1)*workers {
		t.Errorf("of %v: %v", calls, err)
	}
}

// instances are those of payments that m knows, dead or alive.
func instances(m *member.Mesh) map[string]bool {
	known := make(map[string]bool)
	for _, ep := range m.Discovery().Lookup("payments").Endpoints {
		if ep.Port == "grpc" {
			known[ep.Instance] = true
		}
	}
	return known
}

func charge(ctx context.Context, m *member.Mesh) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://payments/charge", strings.NewReader("1299"))
	if err != nil {
		return err
	}
	resp, err := m.HTTPClient().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != "done") {
		err = fmt.Errorf("%s: %q", resp.Status, body)
	}
	return err
}

func echoOnce(ctx context.Context, m *member.Mesh) error {
	c, err := m.Dial(ctx, "tcp", net.JoinHostPort("payments", "raw"))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "ping"); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 4))
	return err
}

func unary(ctx context.Context, c pb.TestServiceClient) error {
	_, err := c.UnaryCall(ctx, &pb.SimpleRequest{})
	return err
}

// converse exchanges twenty messages.
func converse(ctx context.Context, c pb.TestServiceClient) error {
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for range 20 {
		if err := s.Send(&pb.StreamingOutputCallRequest{}); err != nil && !errors.Is(err, io.EOF) { // else Recv tells
			return err
		}
		if _, err := s.Recv(); err != nil {
			return fmt.Errorf("in the middle: %w", err)
		}
		<-time.After(5 * time.Millisecond)
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("at the end: %w", err)
	}
	return nil
}

// untilTheEnd reads a stream that the server ends. That ctx ends is well, too.
func untilTheEnd(ctx context.Context, c pb.TestServiceClient) error {
	s, err := c.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{})
	for err == nil {
		_, err = s.Recv()
	}
	if !errors.Is(err, io.EOF) && ctx.Err() == nil {
		return err
	}
	return nil
}

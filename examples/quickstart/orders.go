package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/examples/payv1"
	"github.com/intramesh/mesh/meshgrpc"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// orders calls payments in three protocols. It serves nothing.
type orders struct {
	mesh *mesh.Mesh
	http *http.Client
	pay  payv1.PaymentsClient

	mu   sync.Mutex
	load *load
	held *held
}

// protocols are the ways to call payments, in the order in which they are shown.
var protocols = []string{"HTTP", "gRPC", "TCP"} //nolint:gochecknoglobals // a constant, if Go had such

func startOrders(ctx context.Context, s setup, log *slog.Logger) (*role, error) {
	m, err := join(ctx, s, log)
	if err != nil {
		return nil, err
	}
	conn, err := meshgrpc.NewClient(m, "payments:grpc")
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	o := &orders{mesh: m, http: m.HTTPClient(), pay: payv1.NewPaymentsClient(conn)}
	return &role{
		ready: joined{ID: m.ID().String(), Addr: "serves nothing"},
		ops: map[string]operation{
			"find":   o.find,
			"call":   o.callOnce,
			"until":  o.callUntil,
			"spread": o.spread,
			"load":   o.startLoad,
			"pass":   o.passLoad,
			"unload": o.stopLoad,
			"hold":   o.hold,
			"cut":    o.cut,
		},
		stop: func() {
			_ = conn.Close()
			stop(m)
		},
	}, nil
}

// An outcome is what came of one call.
type outcome struct {
	receipt
	// Server is the identity that answered, as this side verified it.
	Server string `json:"server"`
	// Session describes the connection's protection, where the protocol tells.
	Session string `json:"session,omitempty"`
	// Denied is why the mesh refused, nil when it did not.
	Denied *mesh.DeniedError `json:"denied,omitempty"`
}

// charge calls payments once. A denial is an outcome, not an error.
func (o *orders) charge(ctx context.Context, protocol string) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	do := map[string]func(context.Context) (outcome, error){
		"HTTP": o.chargeHTTP, "gRPC": o.chargeGRPC, "TCP": o.chargeTCP,
	}[protocol]
	if do == nil {
		return outcome{}, fmt.Errorf("no protocol %q", protocol)
	}
	out, err := do(ctx)
	if denied, ok := errors.AsType[*mesh.DeniedError](err); ok {
		return outcome{Denied: denied}, nil
	}
	return out, err
}

func (o *orders) chargeHTTP(ctx context.Context) (out outcome, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://payments/charge", nil)
	if err != nil {
		return out, err
	}
	req.Header.Set("Idempotency-Key", rand.Text()) // lets the mesh try again elsewhere when an instance dies
	resp, err := o.http.Do(req)
	if err != nil {
		return out, err
	}
	return out, out.read(resp)
}

func (out *outcome) read(resp *http.Response) error {
	defer resp.Body.Close()
	if denied, ok := mesh.DeniedFromResponse(resp); ok {
		return denied
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		id, err := x509svid.IDFromCert(resp.TLS.PeerCertificates[0])
		if err != nil {
			return err
		}
		out.Server = id.String()
		out.Session = fmt.Sprintf("%s, %s, %s", resp.Proto, tls.VersionName(resp.TLS.Version), resp.TLS.CurveID)
	}
	return json.NewDecoder(resp.Body).Decode(&out.receipt)
}

func (o *orders) chargeGRPC(ctx context.Context) (out outcome, err error) {
	var p peer.Peer
	resp, err := o.pay.Charge(ctx, &payv1.ChargeRequest{Cents: 1299}, grpc.Peer(&p), grpc.WaitForReady(true))
	if err != nil {
		return out, err
	}
	if info, ok := p.AuthInfo.(meshgrpc.AuthInfo); ok {
		out.Server = info.Peer.ID.String()
	}
	out.receipt = receipt{resp.Instance, resp.Caller}
	return out, nil
}

func (o *orders) chargeTCP(ctx context.Context) (out outcome, err error) {
	conn, err := o.mesh.Dial(ctx, "tcp", "payments:ledger")
	if err != nil {
		return out, err
	}
	defer conn.Close()
	if t, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(t); err != nil {
			return out, err
		}
	}
	out.receipt, err = appendLine(conn, bufio.NewReader(conn), "1299 cents")
	if p, ok := mesh.PeerFromConn(conn); ok {
		out.Server = p.ID.String()
	}
	return out, err
}

// find waits until discovery knows as many instances of payments as the argument says, and returns how
// long that took.
func (o *orders) find(ctx context.Context, args json.RawMessage) (any, error) {
	var want int
	if err := json.Unmarshal(args, &want); err != nil {
		return nil, err
	}
	begun := time.Now()
	for {
		known := o.mesh.Discovery().Lookup("payments")
		instances := map[string]bool{}
		for _, e := range known.Endpoints {
			if e.Port == "" {
				instances[e.Instance] = true
			}
		}
		if len(instances) >= want {
			return time.Since(begun), nil
		}
		select {
		case <-known.Changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Second):
			return nil, fmt.Errorf("discovery knows %d instances of payments, not %d", len(instances), want)
		}
	}
}

func (o *orders) callOnce(ctx context.Context, args json.RawMessage) (any, error) {
	var protocol string
	if err := json.Unmarshal(args, &protocol); err != nil {
		return nil, err
	}
	return o.charge(ctx, protocol)
}

// callUntil calls again and again until a call is allowed (or, if that is asked for, denied), and returns when
// that was.
func (o *orders) callUntil(ctx context.Context, args json.RawMessage) (any, error) {
	var a untilArgs
	if err := json.Unmarshal(args, &a); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var last error
	for {
		out, err := o.charge(ctx, a.Protocol)
		if err == nil && (out.Denied == nil) == a.Allowed {
			return time.Now(), nil
		}
		if last = err; err == nil && out.Denied != nil {
			last = out.Denied
		}
		if pause(ctx, 2*time.Millisecond) != nil {
			return nil, fmt.Errorf("not after 10 s; the last answer: %w", last)
		}
	}
}

type untilArgs struct {
	Protocol string
	Allowed  bool
}

// spread calls a number of times and counts who answered.
func (o *orders) spread(ctx context.Context, args json.RawMessage) (any, error) {
	var a spreadArgs
	if err := json.Unmarshal(args, &a); err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for range a.Calls {
		out, err := o.charge(ctx, a.Protocol)
		if err == nil && out.Denied != nil {
			err = out.Denied
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Protocol, err)
		}
		counts[out.Instance]++
	}
	return counts, nil
}

type spreadArgs struct {
	Protocol string
	Calls    int
}

// pause waits; time.Sleep would not hear of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

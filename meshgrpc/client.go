package meshgrpc

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/intramesh/mesh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// NewClient returns a client of a service, named as in [mesh.Mesh.Dial]: "payments",
// "payments:admin" or "mesh:///payments". Calls are spread over the service's instances as
// discovery reports them. It connects at the first call, and does not block; the caller closes
// it, before m.
//
// Options come after [DialOptions] and override them. To retry calls see [Idempotent].
func NewClient(m *mesh.Mesh, target string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	address := strings.TrimPrefix(target, scheme+":///")
	if _, _, err := mesh.ParseAddress(address); err != nil {
		return nil, fmt.Errorf("meshgrpc: %w", err)
	}
	return grpc.NewClient(scheme+":///"+address, append(DialOptions(m), opts...)...)
}

// DialOptions returns what makes grpc.NewClient a client of the mesh, for targets of the form
// "mesh:///payments". Transport security, resolver, dialer and interceptors are part
// of it: an option that replaces the first three ends in calls that fail. A service config of the
// application's own has to choose the mesh's balancer:
//
//	{"loadBalancingConfig": [{"intramesh_balance": {}}]}
func DialOptions(m *mesh.Mesh) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithResolvers(resolverBuilder{m}),
		grpc.WithContextDialer(dialer(m)),
		grpc.WithTransportCredentials(transportCredentials{}),
		grpc.WithDefaultServiceConfig(serviceConfig()),
		grpc.WithChainUnaryInterceptor(unaryClientInterceptor),
		grpc.WithChainStreamInterceptor(streamClientInterceptor),
		grpc.WithStaticStreamWindowSize(clientWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		// Silence is all that tells of an instance whose machine is gone.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		// gRPC's defaults are made for the internet: two minutes between attempts.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
}

// A client with calls under way pings a server that has been silent for pingAfter, which gRPC
// does not let be less than ten seconds, and gives the connection up after another pingTimeout. A
// server takes pings at half that distance.
const (
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// Idempotent is a dial option that declares methods which may safely run twice:
// "pay.v1.Payments/Get", or "pay.v1.Payments" for all of a service. When the instance that has such a
// call is lost, the call is made again on another, up to three times. Without it, only
// calls that certainly reached no handler are made again.
//
// It replaces the channel's default service config. It panics if a name has more than one slash.
func Idempotent(methods ...string) grpc.DialOption {
	names := make([]methodName, len(methods))
	for i, m := range methods {
		service, method, _ := strings.Cut(m, "/")
		if service == "" || strings.Contains(method, "/") {
			panic("meshgrpc: Idempotent: not a method: " + m)
		}
		names[i] = methodName{service, method}
	}
	return grpc.WithDefaultServiceConfig(serviceConfig(methodConfig{
		Name: names,
		RetryPolicy: retryPolicy{
			MaxAttempts: 4, InitialBackoff: "0.01s", MaxBackoff: "0.25s", BackoffMultiplier: 4,
			RetryableStatusCodes: []string{"UNAVAILABLE"},
		},
	}))
}

// The types below are gRPC's service config,
// https://github.com/grpc/grpc-proto/blob/master/grpc/service_config/service_config.proto.
type (
	methodConfig struct {
		Name        []methodName `json:"name"`
		RetryPolicy retryPolicy  `json:"retryPolicy"`
	}
	methodName struct {
		Service string `json:"service"`
		Method  string `json:"method,omitempty"`
	}
	retryPolicy struct {
		MaxAttempts          int      `json:"maxAttempts"`
		InitialBackoff       string   `json:"initialBackoff"`
		MaxBackoff           string   `json:"maxBackoff"`
		BackoffMultiplier    float64  `json:"backoffMultiplier"`
		RetryableStatusCodes []string `json:"retryableStatusCodes"`
	}
)

func serviceConfig(methods ...methodConfig) string {
	raw, err := json.Marshal(map[string]any{
		"loadBalancingConfig": []any{map[string]any{balancerName: struct{}{}}},
		"methodConfig":        methods,
	})
	if err != nil {
		panic("meshgrpc: a service config of strings did not marshal: " + err.Error())
	}
	return string(raw)
}

package mesh_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const exampleRules = `{
	"apiVersion": "mesh/v1", "kind": "Authorization", "metadata": {"name": "payments-callers"},
	"spec": {"service": "payments", "action": "allow", "rules": [{"from": [{"services": ["orders"]}]}]}
}`

// exampleMesh joins orders and payments in this process. A real program calls Join once, with a Bootstrap.
func exampleMesh(ctx context.Context) (orders, payments *mesh.Mesh) {
	td := spiffeid.RequireTrustDomainFromString("prod.example")
	ca, err := testca.New(td)
	if err != nil {
		log.Fatal(err)
	}
	docs, err := policy.Parse("rules.json", []byte(exampleRules))
	if err != nil {
		log.Fatal(err)
	}
	rules, err := policy.Static(td, docs...)
	if err != nil {
		log.Fatal(err)
	}
	names := static.New()
	join := func(service string) *mesh.Mesh {
		id, err := ca.Source(service)
		if err != nil {
			log.Fatal(err)
		}
		m, err := mesh.Join(ctx, mesh.Config{Service: service, Identity: id, Discovery: names.Member(service), Policy: rules})
		if err != nil {
			log.Fatal(err)
		}
		return m
	}
	return join("orders"), join("payments")
}

func Example() {
	ctx := context.Background()
	orders, payments := exampleMesh(ctx)
	defer orders.Close()
	defer payments.Close()

	// The server.
	ln, err := payments.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/charge", func(w http.ResponseWriter, r *http.Request) {
		caller, _ := mesh.PeerFromContext(r.Context())
		fmt.Fprintf(w, "charged for %s", caller.Service())
	})
	srv := &http.Server{Handler: payments.Handler(mux)}
	defer srv.Close()
	go srv.Serve(ln)

	// The client.
	resp, err := orders.HTTPClient().Get("http://payments/charge")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, string(body))
	// Output: 200 charged for orders
}

func ExampleMesh_Dial() {
	ctx := context.Background()
	orders, payments := exampleMesh(ctx)
	defer orders.Close()
	defer payments.Close()

	ln, err := payments.Listen(ctx, "tcp", "127.0.0.1:0", mesh.ListenOptions{Port: "greeter"})
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		caller, _ := mesh.PeerFromConn(c)
		fmt.Fprintf(c, "hello %s\n", caller.ID)
	}()

	c, err := orders.Dial(ctx, "tcp", "payments:greeter")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	line, _ := bufio.NewReader(c).ReadString('\n')
	fmt.Print(line)
	// Output: hello spiffe://prod.example/orders
}

// A refusal names the rule, or says that there is none.
func ExampleDeniedError() {
	ctx := context.Background()
	orders, payments := exampleMesh(ctx)
	defer orders.Close()
	defer payments.Close()
	ln, err := orders.Listen(ctx, "tcp", "127.0.0.1:0") // nobody may call orders
	if err != nil {
		log.Fatal(err)
	}
	go ln.Accept()

	c, err := payments.Dial(ctx, "tcp", "orders")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.Read(make([]byte, 1))
	if denied, ok := errors.AsType[*mesh.DeniedError](err); ok {
		fmt.Println(denied.Source, "is denied at layer", denied.Layer)
	}
	// Output: spiffe://prod.example/payments is denied at layer connection
}

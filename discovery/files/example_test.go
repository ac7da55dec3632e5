package files_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/intramesh/mesh/discovery/files"
)

func Example() {
	dir, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "endpoints.json")
	_ = os.WriteFile(path, []byte(`{"endpoints": [{"service": "payments", "address": "192.0.2.1:8443"}]}`), 0o600)

	src, err := files.Open(files.Config{Path: path})
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	// mesh.Join(ctx, mesh.Config{…, Discovery: src})
	fmt.Println(src.Lookup("payments").Endpoints[0].Addr)

	// Output:
	// 192.0.2.1:8443
}

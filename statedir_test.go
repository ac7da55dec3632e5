package mesh_test

import (
	"strings"
	"testing"

	"github.com/intramesh/mesh"
)

// Two that keep their state in one place would overwrite each other's certificate and rules.
func TestStateDirBelongsToOne(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir() + "/state"
	at := func(c *mesh.Config) { c.StateDir = dir }
	first := w.join("payments", at)
	_, err := mesh.Join(t.Context(), mesh.Config{Identity: w.source("orders"), StateDir: dir})
	if err == nil || !strings.Contains(err.Error(), "Config.StateDir: "+dir+": it is in use") {
		t.Errorf("the second one: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	w.join("payments", at)
}

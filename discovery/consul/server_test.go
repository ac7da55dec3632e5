package consul_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

type object = map[string]any

// A catalog answers /v1/health/service as Consul does: each change of a service has an index, and a query with the
// current one blocks until there is another.
type catalog struct {
	*httptest.Server

	mu        sync.Mutex
	index     uint64
	services  map[string]map[string]object // instances by service and node/ID
	indexes   map[string]uint64            // of the last change of a service
	changed   chan struct{}
	done      chan struct{}
	wakes     int
	token     string
	blind     bool // the token may read nothing
	waiting   int  // requests under way
	queries   []string
	intercept func(http.ResponseWriter, *http.Request) bool
}

func newCatalog(t testing.TB) *catalog {
	t.Helper()
	c := &catalog{
		index: 10, services: make(map[string]map[string]object), indexes: make(map[string]uint64),
		changed: make(chan struct{}), done: make(chan struct{}),
	}
	c.Server = httptest.NewUnstartedServer(c)
	c.EnableHTTP2 = true
	c.StartTLS()
	t.Cleanup(func() {
		close(c.done)
		c.Close()
	})
	return c
}

func (c *catalog) put(service, id string, instance object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.services[service] == nil {
		c.services[service] = make(map[string]object)
	}
	c.services[service][id] = instance
	c.touch(service)
}

func (c *catalog) remove(service, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.services[service], id)
	c.touch(service)
}

func (c *catalog) touch(service string) {
	c.index++
	c.indexes[service] = c.index
	close(c.changed)
	c.changed = make(chan struct{})
}

// set changes the server between two requests.
func (c *catalog) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// wake answers every query that waits.
func (c *catalog) wake() {
	c.set(func() {
		c.wakes++
		close(c.changed)
		c.changed = make(chan struct{})
	})
}

func (c *catalog) asked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.queries)
}

func (c *catalog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queries = append(c.queries, r.URL.RawQuery)
	if c.waiting++; c.waiting > 200 { // limits.http_max_conns_per_client; without TLS each is a connection
		c.waiting--
		http.Error(w, "Your IP is issuing too many concurrent connections, please rate limit your calls", http.StatusTooManyRequests)
		return
	}
	defer func() { c.waiting-- }()
	if c.intercept != nil && c.intercept(w, r) {
		return
	}
	service, ok := strings.CutPrefix(r.URL.EscapedPath(), "/v1/health/service/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.Header.Get("X-Consul-Token") != c.token {
		http.Error(w, "ACL not found", http.StatusForbidden)
		return
	}
	after, _ := strconv.ParseUint(r.FormValue("index"), 10, 64)
	wait, _ := time.ParseDuration(r.FormValue("wait"))
	if wait == 0 {
		wait = 5 * time.Minute
	}
	end := time.After(wait)
	index := func() uint64 { return max(c.indexes[service], 1) }
	for woken := false; after > 0 && index() <= after && !woken; {
		changed := c.changed
		before := c.wakes
		c.mu.Unlock()
		select {
		case <-changed:
		case <-end:
			woken = true
		case <-r.Context().Done():
			woken = true
		case <-c.done:
			woken = true
		}
		c.mu.Lock()
		woken = woken || before != c.wakes // by wake, as Consul may
	}
	tag := r.FormValue("tag")
	all := []object{}
	for _, id := range slices.Sorted(maps.Keys(c.services[service])) {
		o := c.services[service][id]
		tags, _ := o["Service"].(object)["Tags"].([]string)
		if tag == "" || slices.Contains(tags, tag) {
			all = append(all, o)
		}
	}
	if c.blind { // which is no 403, and what waited came out of an agent's cache, which says nothing of it
		all = []object{}
		if after == 0 {
			w.Header().Set("X-Consul-Results-Filtered-By-Acls", "true")
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Consul-Index", strconv.FormatUint(index(), 10))
	_ = json.NewEncoder(w).Encode(all)
}

package store

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/intramesh/mesh/policy"
)

// The documents of a version are written once, as compressed JSON in parts that fit into a commit, and
// then named by the record that makes the version current. Parts that no version names are left over from a
// writer that died or was not first.
const (
	partSize   = 512 << 10
	maxContent = 256 << 20 // unpacked: what could be in force has less
)

// content is what a version has, as stored.
type content struct {
	Documents json.RawMessage            `json:"documents"`
	Attached  map[string]json.RawMessage `json:"attached,omitempty"`
}

// head is the record of a version.
type head struct {
	Version
	// Data begins the keys of the parts.
	Data  string `json:"data"`
	Parts int    `json:"parts"`
	// SHA256 is over all parts.
	SHA256 []byte `json:"sha256"`
}

func versionKey(v uint64) string { return fmt.Sprintf("%020d", v) }

func partKey(data string, i int) string { return fmt.Sprintf("%s-%04d", data, i) }

// versionOfPart is the version that a part was written for.
func versionOfPart(key string) string {
	v, _, _ := strings.Cut(key, "-")
	return v
}

// pack returns the ops that write the documents, and completes the head by where they are.
func pack(r Rules, h *head) ([]Op, error) {
	docs, err := json.Marshal(r.Documents)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	raw, err := json.Marshal(content{docs, r.Attached})
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	_, err = zw.Write(raw)
	if err := errors.Join(err, zw.Close()); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	sum := sha256.Sum256(packed.Bytes())
	h.Data, h.SHA256 = versionKey(r.Version)+"-"+rand.Text()[:10], sum[:]
	var ops []Op
	for packed.Len() > 0 {
		ops = append(ops, Op{Kind: KindRulesData, Key: partKey(h.Data, len(ops)), Value: packed.Next(partSize), If: Absent})
	}
	h.Parts = len(ops)
	return ops, nil
}

// unpack reads what pack wrote.
func unpack(ctx context.Context, db DB, h head) (Rules, error) {
	damaged := func(err error) (Rules, error) {
		return Rules{}, fmt.Errorf("store: the documents of v%d: %w", h.Version.Version, err)
	}
	var packed bytes.Buffer
	for i := range h.Parts {
		r, err := db.Get(ctx, KindRulesData, partKey(h.Data, i))
		if err != nil {
			return Rules{}, err
		}
		packed.Write(r.Value)
	}
	if sum := sha256.Sum256(packed.Bytes()); !bytes.Equal(sum[:], h.SHA256) {
		return damaged(errors.New("their digest does not match: restore the store from a snapshot"))
	}
	zr, err := gzip.NewReader(&packed)
	if err != nil {
		return damaged(err)
	}
	raw, err := io.ReadAll(io.LimitReader(zr, maxContent))
	if err != nil {
		return damaged(err)
	}
	var c content
	if err := json.Unmarshal(raw, &c); err != nil {
		return damaged(err)
	}
	r := Rules{Version: h.Version.Version, At: h.At, Attached: c.Attached}
	if string(c.Documents) != "null" {
		if r.Documents, err = policy.Parse("", c.Documents); err != nil {
			return damaged(err)
		}
	}
	return r, nil
}

package store

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

// A snapshot is all records as of one moment: gzip of a JSON document a line. The first says what it is, the last
// counts the others and has their SHA-256, so that one that was cut off or damaged is noticed before anything is written.

// SnapshotFormat is that of snapshots.
const SnapshotFormat = "mesh snapshot 1"

// A SnapshotInfo is the first line of a snapshot.
type SnapshotInfo struct {
	Format string `json:"format"`
	// TrustDomain is the mesh's.
	TrustDomain string    `json:"trust_domain"`
	At          time.Time `json:"at"`
}

// snapshotLine is a record, or with SHA256 the end.
type snapshotLine struct {
	Kind    string `json:"kind,omitempty"`
	Key     string `json:"key,omitempty"`
	Value   []byte `json:"value,omitempty"`
	Records int    `json:"records,omitempty"`
	SHA256  string `json:"sha256,omitempty"`
}

// WriteSnapshot writes all records to w. The list of replicas is left out: it is about who is there now.
func WriteSnapshot(ctx context.Context, db DB, trustDomain string, w io.Writer) error {
	zw := gzip.NewWriter(w)
	sum := sha256.New()
	lines := json.NewEncoder(io.MultiWriter(zw, sum))
	if err := lines.Encode(SnapshotInfo{SnapshotFormat, trustDomain, timestamp()}); err != nil {
		return fmt.Errorf("store: snapshot: %w", err)
	}
	n := 0
	for r, err := range db.All(ctx, "") {
		if err != nil {
			return err
		}
		if r.Kind == KindReplicas {
			continue
		}
		n++
		if err := lines.Encode(snapshotLine{Kind: r.Kind, Key: r.Key, Value: r.Value}); err != nil {
			return fmt.Errorf("store: snapshot: %w", err)
		}
	}
	end := snapshotLine{Records: n, SHA256: hex.EncodeToString(sum.Sum(nil))}
	if err := errors.Join(json.NewEncoder(zw).Encode(end), zw.Close()); err != nil {
		return fmt.Errorf("store: snapshot: %w", err)
	}
	return nil
}

// ReadSnapshot calls record, if it is not nil, for each record of a snapshot, and fails in the end when it is not whole.
func ReadSnapshot(r io.Reader, record func(Record) error) (info SnapshotInfo, err error) {
	fail := func(err error) (SnapshotInfo, error) {
		return info, fmt.Errorf("store: the snapshot is damaged, or not a snapshot: %w", err)
	}
	zr, err := gzip.NewReader(r)
	if err != nil {
		return fail(err)
	}
	sum := sha256.New()
	lines := bufio.NewReaderSize(zr, 64<<10)
	first, err := readLine(lines, sum)
	if err != nil {
		return fail(err)
	}
	if err := json.Unmarshal(first, &info); err != nil || info.Format != SnapshotFormat {
		return fail(fmt.Errorf("it does not say %q", SnapshotFormat))
	}
	for n := 0; ; n++ {
		before := hex.EncodeToString(sum.Sum(nil))
		raw, err := readLine(lines, sum)
		if errors.Is(err, io.EOF) {
			return fail(errors.New("it ends before its end"))
		}
		if err != nil {
			return fail(err)
		}
		var l snapshotLine
		if err := json.Unmarshal(raw, &l); err != nil {
			return fail(err)
		}
		if l.SHA256 != "" {
			if l.SHA256 != before || l.Records != n {
				return fail(errors.New("its digest does not match"))
			}
			if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) { // gzip's own checksum is at the end
				return fail(errors.New("it does not end at its end"))
			}
			return info, nil
		}
		if record != nil {
			if err := record(Record{Kind: l.Kind, Key: l.Key, Value: append([]byte{}, l.Value...)}); err != nil {
				return info, err
			}
		}
	}
}

// maxLine is more than a record of MaxCommit bytes takes in base64.
const maxLine = 2 * MaxCommit

func readLine(r *bufio.Reader, sum hash.Hash) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, errors.New("a line is too long")
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, err
		}
		sum.Write(line)
		return bytes.TrimSuffix(line, []byte("\n")), nil
	}
}

// ErrNotEmpty says that there are records where a snapshot was to be restored.
var ErrNotEmpty = errors.New("the store is not empty: a snapshot is restored into a new one")

// Restore writes a snapshot, which is read twice, into an empty store. The rules get a new version, which no member has
// seen: the number of seconds since 1970, or the snapshot's and one if that is greater. (Members that have a version which
// was made after the snapshot would take no other rules under the same number.)
func Restore(ctx context.Context, db DB, snapshot io.ReadSeeker, trustDomain string) (version uint64, err error) {
	info, err := ReadSnapshot(snapshot, nil)
	if err != nil {
		return 0, err
	}
	if info.TrustDomain != trustDomain {
		return 0, fmt.Errorf("store: the snapshot is of mesh %s, this is %s", info.TrustDomain, trustDomain)
	}
	if _, err := snapshot.Seek(0, io.SeekStart); err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	for _, err := range db.All(ctx, "") {
		if err == nil {
			err = fmt.Errorf("store: %w", ErrNotEmpty)
		}
		return 0, err
	}
	var current head
	var ops []Op
	size := 0
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		_, err := db.Commit(ctx, ops...)
		ops, size = ops[:0], 0
		return err
	}
	_, err = ReadSnapshot(snapshot, func(r Record) error {
		if r.Kind == KindRules { // last: without it, this is no mesh yet
			return json.Unmarshal(r.Value, &current)
		}
		n := len(r.Kind) + len(r.Key) + len(r.Value)
		if len(ops) == MaxOps || size+n > MaxCommit {
			if err := flush(); err != nil {
				return err
			}
		}
		ops, size = append(ops, Op{Kind: r.Kind, Key: r.Key, Value: r.Value, If: Absent}), size+n
		return nil
	})
	if err = errors.Join(err, flush()); err != nil {
		return 0, err
	}
	rules, err := unpack(ctx, db, current)
	if err != nil {
		return 0, err
	}
	rules.At = timestamp()
	rules.Version = max(rules.Version+1, uint64(max(0, rules.At.Unix())))
	return rules.Version, firstVersion(ctx, db, rules, fmt.Sprintf("restore of v%d", current.Version.Version))
}

package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
)

// Etcd is a [DB] in an etcd cluster, below a prefix of its keys, for any number of processes. Reads are linearizable:
// what any replica acknowledged is seen by all. Without a quorum everything but Watch fails with an
// [*UnavailableError] within 5 s.
type Etcd struct {
	client *clientv3.Client
	prefix string
	log    *slog.Logger

	ctx  context.Context // ends at Close
	stop context.CancelFunc
	wg   sync.WaitGroup
}

var _ DB = (*Etcd)(nil)

const (
	// etcdTimeout is longer than an election takes, so that a commit outlives a leader.
	etcdTimeout = 5 * time.Second
	etcdPage    = 64 // a record has up to 1 MiB
)

// OpenEtcd connects to the cluster of a URL, see [ParseEtcdURL], and waits until it answers or ctx is done. Two
// meshes in one cluster need different prefixes. A nil logger discards.
func OpenEtcd(ctx context.Context, rawURL string, log *slog.Logger) (*Etcd, error) {
	u, err := ParseEtcdURL(rawURL)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	conf, err := u.config()
	if err != nil {
		return nil, err
	}
	conf.Logger = zap.NewNop() // what fails comes back as an error
	client, err := clientv3.New(conf)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	e := &Etcd{client: client, prefix: u.Prefix + "/", log: log}
	e.ctx, e.stop = context.WithCancel(context.Background())
	for {
		_, err := e.Get(ctx, KindMesh, "probe")
		if err == nil || errors.Is(err, ErrNotFound) {
			return e, nil
		}
		log.WarnContext(ctx, "waiting for etcd", "endpoints", u.Endpoints, "error", err)
		if ctx.Err() != nil || !e.sleep(ctx) {
			return nil, errors.Join(err, e.Close())
		}
	}
}

func (e *Etcd) key(kind, key string) string { return e.prefix + kind + "/" + key }

// call bounds a request, and ends it when the DB is closed.
func (e *Etcd) call(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	stop := context.AfterFunc(e.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func (e *Etcd) record(k, v []byte, revision int64) (Record, error) {
	kind, key, ok := strings.Cut(strings.TrimPrefix(string(k), e.prefix), "/")
	if !ok {
		return Record{}, fmt.Errorf("store: %q is not a record", k)
	}
	return Record{kind, key, v, uint64(revision)}, nil //nolint:gosec // etcd's revisions are not negative
}

// Get returns a record.
func (e *Etcd) Get(ctx context.Context, kind, key string) (Record, error) {
	ctx, cancel := e.call(ctx)
	defer cancel()
	resp, err := e.client.Get(ctx, e.key(kind, key))
	if err != nil {
		return Record{}, e.wrap(err)
	}
	if len(resp.Kvs) == 0 {
		return Record{}, fmt.Errorf("store: %s %q: %w", kind, key, ErrNotFound)
	}
	kv := resp.Kvs[0]
	return e.record(kv.Key, kv.Value, kv.ModRevision)
}

// All yields the records of a kind, page by page, as of the revision of the first.
func (e *Etcd) All(ctx context.Context, kind string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		from := e.prefix
		if kind != "" {
			from = e.key(kind, "")
		}
		end := clientv3.GetPrefixRangeEnd(from)
		revision := int64(0)
		for {
			resp, err := e.page(ctx, from, end, revision)
			if err != nil {
				yield(Record{}, e.wrap(err))
				return
			}
			revision = resp.Header.Revision
			for _, kv := range resp.Kvs {
				r, err := e.record(kv.Key, kv.Value, kv.ModRevision)
				if !yield(r, err) || err != nil {
					return
				}
				from = string(kv.Key) + "\x00"
			}
			if !resp.More {
				return
			}
		}
	}
}

func (e *Etcd) page(ctx context.Context, from, end string, revision int64) (*clientv3.GetResponse, error) {
	ctx, cancel := e.call(ctx)
	defer cancel()
	return e.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(etcdPage), clientv3.WithRev(revision))
}

// Commit does all ops in one transaction.
func (e *Etcd) Commit(ctx context.Context, ops ...Op) (uint64, error) {
	if err := checkOps(ops); err != nil {
		return 0, err
	}
	var conditions []clientv3.Cmp
	var then, otherwise []clientv3.Op
	var conditional []Op
	for _, o := range ops {
		k := e.key(o.Kind, o.Key)
		if o.If != 0 {
			want := int64(o.If) //nolint:gosec // a revision that etcd gave us, or Absent
			if o.If == Absent {
				want = 0
			}
			conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(k), "=", want))
			otherwise = append(otherwise, clientv3.OpGet(k, clientv3.WithKeysOnly()))
			conditional = append(conditional, o)
		}
		switch {
		case o.Check:
		case o.Value == nil:
			then = append(then, clientv3.OpDelete(k))
		default:
			then = append(then, clientv3.OpPut(k, string(o.Value)))
		}
	}
	ctx, cancel := e.call(ctx)
	defer cancel()
	resp, err := e.client.Txn(ctx).If(conditions...).Then(then...).Else(otherwise...).Commit()
	if err != nil {
		return 0, e.wrap(err)
	}
	if resp.Succeeded {
		return uint64(resp.Header.Revision), nil //nolint:gosec // etcd's revisions are not negative
	}
	for i, o := range conditional {
		found := Absent
		if kvs := resp.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			found = uint64(kvs[0].ModRevision) //nolint:gosec // etcd's revisions are not negative
		}
		if found != o.If {
			return 0, &ConflictError{o.Kind, o.Key}
		}
	}
	return 0, &ConflictError{ops[0].Kind, ops[0].Key} // etcd compared, so one of them is
}

// Watch follows a kind, from whichever member of the cluster has a leader.
func (e *Etcd) Watch(ctx context.Context, kind string) <-chan struct{} {
	c := make(chan struct{}, 1)
	c <- struct{}{}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(e.ctx, cancel)
	e.wg.Go(func() {
		defer cancel()
		defer stop()
		for ctx.Err() == nil {
			e.follow(ctx, kind, c)
			if !e.sleep(ctx) {
				return
			}
		}
	})
	return c
}

// follow signals changes until the watch breaks. What changed while none was running is covered by the signal when it is
// created.
func (e *Etcd) follow(ctx context.Context, kind string, c chan<- struct{}) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range e.client.Watch(ctx, e.key(kind, ""), clientv3.WithPrefix(), clientv3.WithCreatedNotify()) {
		if err := resp.Err(); err != nil {
			if ctx.Err() == nil {
				e.log.WarnContext(ctx, "etcd: a watch broke, starting it again", "kind", kind, "error", err)
			}
			return
		}
		signal(c)
	}
}

// sleep waits a little, at random so that replicas spread; it reports whether to go on.
func (e *Etcd) sleep(ctx context.Context) bool {
	t := time.NewTimer(200*time.Millisecond + rand.N(600*time.Millisecond)) //nolint:gosec // spreads load
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	case <-e.ctx.Done():
		return false
	}
}

// Close ends watches and closes connections.
func (e *Etcd) Close() error {
	e.stop()
	e.wg.Wait()
	if err := e.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

func (e *Etcd) wrap(err error) error {
	if e.ctx.Err() != nil {
		return fmt.Errorf("store: %w", errClosed)
	}
	if ee, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		switch ee.Code() {
		case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.ResourceExhausted, codes.FailedPrecondition, codes.OutOfRange:
			return fmt.Errorf("store: etcd refuses: %w", err)
		}
	}
	return &UnavailableError{err}
}

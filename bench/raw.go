package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// The protocol of raw connections: the client's first 8 bytes say what it wants of the server.
//
//	byte 0     what: 'e' every message of n bytes comes back, these 8 being part of the first;
//	           's' swallow n bytes and acknowledge them with one, again and again;
//	           'r' respond with n bytes, once
//	bytes 4–7  n, big endian
const (
	rawHeader  = 8
	maxRawSize = 1 << 24
	rawTimeout = 10 * time.Second
)

func request(what byte, n int) []byte {
	b := make([]byte, rawHeader)
	b[0] = what
	binary.BigEndian.PutUint32(b[4:], uint32(n)) //nolint:gosec // n is one of ours
	return b
}

// smallRaw is the size of messages that the bench itself allocates nothing for: what it counts is the contender's.
const smallRaw = 1 << 10

func serveRaw(ln net.Listener) {
	small := sync.Pool{New: func() any { return new([smallRaw]byte) }}
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := small.Get().(*[smallRaw]byte)
			defer small.Put(b)
			_ = answerRaw(c, b)
		}()
	}
}

func answerRaw(c net.Conn, small *[smallRaw]byte) error {
	h := small[:rawHeader]
	if _, err := io.ReadFull(c, h); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint32(h[4:]))
	if n < rawHeader || n > maxRawSize {
		return errors.New("a size out of bounds")
	}
	switch h[0] {
	case 'e':
		b := small[:]
		if n > len(b) {
			b = make([]byte, n)
			copy(b, h)
		}
		b = b[:n]
		for got := rawHeader; ; got = 0 {
			if _, err := io.ReadFull(c, b[got:]); err != nil {
				return err
			}
			if _, err := c.Write(b); err != nil {
				return err
			}
		}
	case 's':
		b := make([]byte, 64<<10)
		for left := n; ; {
			got, err := c.Read(b[:min(left, len(b))])
			if err != nil {
				return err
			}
			if left -= got; left == 0 {
				left = n
				if _, err := c.Write(b[:1]); err != nil {
					return err
				}
			}
		}
	case 'r':
		_, err := c.Write(make([]byte, n))
		return err
	}
	return errors.New("an unknown wish")
}

func dialRaw(dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	conn, err := dial(context.Background()) // a deadline would be the bench's allocations; the run's own ends the process
	if err != nil {
		return nil, err
	}
	if cs, ok := connState(conn); ok {
		if err := checkTLS(cs); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// echoWorker sends a message and waits for it to come back.
func echoWorker(c clientEnd, l load, _ int) (worker, error) {
	conn, err := dialRaw(c.dial)
	if err != nil {
		return worker{}, err
	}
	out := make([]byte, l.Size)
	copy(out, request('e', l.Size))
	in := make([]byte, l.Size)
	return worker{warm: 20, close: func() { _ = conn.Close() }, op: func() (time.Duration, error) {
		start := time.Now()
		if _, err := conn.Write(out); err != nil {
			return 0, err
		}
		_, err := io.ReadFull(conn, in)
		return time.Since(start), err
	}}, nil
}

// besideWorker is echoWorker with a bulk transfer to the same server going on meanwhile.
func besideWorker(c clientEnd, l load, i int) (worker, error) {
	bulk, err := bulkWorker(c, load{Size: 64 << 10}, i)
	if err != nil {
		return worker{}, err
	}
	w, err := echoWorker(c, l, i)
	if err != nil {
		bulk.close()
		return worker{}, err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for err := error(nil); err == nil; { // until the connection is closed
			_, err = bulk.op()
		}
	})
	closeEcho := w.close
	w.close = func() {
		closeEcho()
		bulk.close()
		wg.Wait()
	}
	return w, nil
}

// dialWorker connects, has one message come back, and closes. From the second time on, the peer is known.
func dialWorker(c clientEnd, l load, _ int) (worker, error) { return dialingWorker(c.dial, l) }

// coldWorker is dialWorker with nothing left over from earlier connections.
func coldWorker(c clientEnd, l load, _ int) (worker, error) { return dialingWorker(c.cold, l) }

func dialingWorker(dial func(context.Context) (net.Conn, error), l load) (worker, error) {
	out := make([]byte, l.Size)
	copy(out, request('e', l.Size))
	in := make([]byte, l.Size)
	return worker{warm: 2, op: func() (time.Duration, error) {
		start := time.Now()
		conn, err := dialRaw(dial)
		if err != nil {
			return 0, err
		}
		if _, err = conn.Write(out); err == nil {
			_, err = io.ReadFull(conn, in)
		}
		if cerr := conn.Close(); err == nil {
			err = cerr // closing twice would be another error, which is allocated
		}
		return time.Since(start), err
	}}, nil
}

// bulkBatch is how many bytes are acknowledged at once.
const bulkBatch = 8 << 20

// bulkWorker sends writes of one size; an operation is a write, and counts once the server has acknowledged its batch.
func bulkWorker(c clientEnd, l load, _ int) (worker, error) {
	conn, err := dialRaw(c.dial)
	if err != nil {
		return worker{}, err
	}
	if _, err := conn.Write(request('s', bulkBatch)); err != nil {
		return worker{}, err
	}
	b, ack := make([]byte, l.Size), make([]byte, 1)
	return worker{warm: 1, batch: bulkBatch / l.Size, close: func() { _ = conn.Close() }, op: func() (time.Duration, error) {
		start := time.Now()
		for range bulkBatch / l.Size {
			if _, err := conn.Write(b); err != nil {
				return 0, err
			}
		}
		_, err := io.ReadFull(conn, ack)
		return time.Since(start), err
	}}, nil
}

// firstWorker times the first response on a new connection, from the request on: connecting does not count.
func firstWorker(c clientEnd, l load, _ int) (worker, error) {
	in := make([]byte, l.Size)
	return worker{warm: 2, op: func() (time.Duration, error) {
		conn, err := dialRaw(c.cold)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		start := time.Now()
		if _, err := conn.Write(request('r', l.Size)); err != nil {
			return 0, err
		}
		_, err = io.ReadFull(conn, in)
		return time.Since(start), err
	}}, nil
}

// openWorker opens Size connections, which have said one word, and keeps them.
func openWorker(c clientEnd, l load, _ int) (worker, error) {
	return openWorkerKeeping(c, l, new([]net.Conn))
}

func openWorkerKeeping(c clientEnd, l load, conns *[]net.Conn) (worker, error) {
	out := make([]byte, 64)
	copy(out, request('e', len(out)))
	return worker{
		close: func() {
			for _, conn := range *conns {
				_ = conn.Close()
			}
		},
		batch: l.Size,
		op: func() (time.Duration, error) {
			start := time.Now()
			for range l.Size {
				conn, err := dialRaw(c.dial)
				if err != nil {
					return 0, err
				}
				*conns = append(*conns, conn)
				if _, err := conn.Write(out); err != nil {
					return 0, err
				}
				if _, err := io.ReadFull(conn, out); err != nil {
					return 0, err
				}
			}
			return time.Since(start), nil
		},
	}, nil
}

// cutWorker has Size connections open, and waits until all of them were closed by the other side.
func cutWorker(c clientEnd, l load, _ int) (worker, error) {
	var conns []net.Conn
	w, err := openWorkerKeeping(c, l, &conns)
	if err == nil {
		_, err = w.op()
	}
	w.op = func() (time.Duration, error) {
		start := time.Now()
		for _, conn := range conns {
			_ = conn.SetReadDeadline(start.Add(rawTimeout))
			_, err := conn.Read(make([]byte, 1))
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				return 0, errors.New("a connection was not cut")
			}
		}
		return time.Since(start), nil
	}
	return w, err
}

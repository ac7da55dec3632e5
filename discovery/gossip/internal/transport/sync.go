package transport

import (
	"context"
	"fmt"
	"io"

	"github.com/intramesh/mesh/discovery/gossip/internal/guard"
	"github.com/intramesh/mesh/internal/pace"
)

// Sync exchanges with the member at address what one of the two has not heard. It costs about 2 KiB when there is nothing.
func (t *Transport) Sync(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*StreamTimeout)
	defer cancel()
	own, err := t.ask(ctx, guard.NoState())
	if err != nil {
		return err
	}
	request, err := guard.DigestRequest(own)
	if err != nil {
		return err
	}
	answer, err := t.say(ctx, address, request)
	if err != nil {
		return err
	}
	theirs, lacks, err := guard.ReadDigest(answer, own)
	if err != nil {
		return fmt.Errorf("gossip: %s did not answer with what differs: %w", address, err)
	}
	if _, err := t.ask(ctx, theirs); err != nil || lacks == nil {
		return err
	}
	_, err = t.say(ctx, address, lacks)
	return err
}

// say sends a request and returns the reply, which has passed the guard.
func (t *Transport) say(ctx context.Context, address string, message []byte) ([]byte, error) {
	conn, err := t.DialTimeout(address, pace.DialTimeout)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := conn.Write(message); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(conn, guard.MaxMessage))
}

// answerSync answers a request of Sync's.
func (t *Transport) answerSync(s *stream) error {
	request, err := io.ReadAll(s.in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.ctx, StreamTimeout)
	defer cancel()
	if guard.IsPush(request) {
		if _, err := t.ask(ctx, guard.Pushed(request)); err != nil {
			return err
		}
		_, err = s.Write(guard.AnswerPush())
		return err
	}
	own, err := t.ask(ctx, guard.NoState())
	if err != nil {
		return err
	}
	answer, err := guard.AnswerDigest(request, own)
	if err != nil {
		return err
	}
	_, err = s.Write(answer)
	return err
}

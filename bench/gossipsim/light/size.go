package light

import (
	"bytes"
	"strings"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/intramesh/mesh/internal/pace"
)

// Messages as memberlist has them on the wire (its net.go), for their sizes.
type (
	pingMessage struct {
		SeqNo      uint32
		Node       string
		SourceAddr []byte
		SourcePort uint16
		SourceNode string
	}
	indirectMessage struct {
		SeqNo      uint32
		Target     []byte
		Port       uint16
		Node       string
		Nack       bool
		SourceAddr []byte
		SourcePort uint16
		SourceNode string
	}
	ackMessage struct {
		SeqNo   uint32
		Payload []byte
	}
	nackMessage    struct{ SeqNo uint32 }
	suspectMessage struct {
		Incarnation uint32
		Node, From  string
	}
	aliveMessage struct {
		Incarnation uint32
		Node        string
		Addr        []byte
		Port        uint16
		Meta        []byte
		Vsn         []uint8
	}
	stateMessage struct {
		Name        string
		Addr        []byte
		Port        uint16
		Meta        []byte
		Incarnation uint32
		State       int
		Vsn         []uint8
	}
	headMessage struct {
		Nodes, UserStateLen int
		Join                bool
	}
)

// What is added to messages, in bytes.
const (
	typeSize      = 1
	crcSize       = 5
	compoundSize  = 2 // of a packet with several
	perPart       = 2 // for each of these
	sealSize      = 28
	streamID      = 16
	chunkSize     = 32 << 10
	chunkOverhead = 2 + sealSize
	digestSize    = typeSize + pace.Buckets*pace.DigestSize
	bucketMapSize = typeSize + pace.Buckets/8
)

// Sizes of what is announced, in bytes: a record with one endpoint, as the simulator's members have it, one without, and one that withdraws.
const (
	recordSize    = 36
	emptySize     = 9
	withdrawnSize = 11
)

// sizes are those of messages, each with its type.
type sizes struct {
	ping, indirect, ack, nack, accusation, head int
	alive, state                                [3]int // by what is announced
}

func measure() (sizes, error) {
	name := strings.Repeat("x", 13) // of gossip.Config.Instance
	addr, vsn, err := make([]byte, 4), make([]byte, 6), error(nil)
	packed := func(v any) int {
		var b bytes.Buffer
		if e := codec.NewEncoder(&b, &codec.MsgpackHandle{}).Encode(v); e != nil {
			err = e
		}
		return typeSize + b.Len()
	}
	s := sizes{
		ping:       packed(pingMessage{100, name, addr, 7946, name}),
		indirect:   packed(indirectMessage{100, addr, 7946, name, true, addr, 7946, name}),
		ack:        packed(ackMessage{SeqNo: 100}),
		nack:       packed(nackMessage{100}),
		accusation: packed(suspectMessage{2, name, name}),
		head:       packed(headMessage{Nodes: 1000}),
	}
	for i, size := range []int{recordSize, emptySize, withdrawnSize} {
		meta := make([]byte, size)
		s.alive[i] = packed(aliveMessage{2, name, addr, 7946, meta, vsn})
		s.state[i] = packed(stateMessage{name, addr, 7946, meta, 2, 0, vsn}) - typeSize
	}
	return s, err
}

// Sizes are those of messages in packets, by their type, in bytes.
func Sizes() (map[byte][]int, error) {
	s, err := measure()
	return map[byte][]int{
		0: {s.ping}, 1: {s.indirect}, 2: {s.ack}, 3: {s.accusation}, 4: s.alive[:], 5: {s.accusation}, 11: {s.nack},
	}, err
}

// streamed is what a message of a stream takes, sealed in chunks.
func streamed(message int, request bool) int {
	chunks := 1 + max(0, message-1)/chunkSize
	size := message + chunks*chunkOverhead
	if request {
		size += streamID
	}
	return size
}

package attack

import (
	"bytes"
	"strings"
)

// Victim returns the address of who is lied about, as memberlist writes it. All gossip at port 7946.
func Victim() []byte { return []byte{10, 0, 0, 2} }

// Attacker returns the address of who sends the attacks.
func Attacker() []byte { return []byte{10, 6, 6, 6} }

// Bystander returns the address of who is no member.
func Bystander() []byte { return []byte{10, 7, 7, 7} }

const (
	// never is an incarnation that can't be refuted.
	never = 1<<32 - 1
	// likely is higher than that of any member in a test.
	likely = 50
)

// An Attack is what a sender with the pool's key can do to memberlist v0.7.0.
type Attack struct {
	Name string
	// Plausible attacks are such that an honest member could have sent it: they can't be recognized, but
	// must not do lasting harm.
	Plausible        bool
	Packets, Streams [][]byte
}

// All returns every attack; most are on the member called victim, in the name of the one called other.
func All(victim, other string) []Attack {
	return append(append(lies(victim, other), intruders()...), floods(victim)...)
}

// lies are about a member that lives.
func lies(victim, other string) []Attack {
	forGood := func(name string, kind byte, from string, state int) Attack {
		return Attack{
			Name:    name,
			Packets: [][]byte{Message(kind, "Incarnation", never, "Node", victim, "From", from)},
			Streams: [][]byte{Exchange(1, State(victim, Victim(), nil, Versions(), never, state))},
		}
	}
	rewritten := func(incarnation int) []byte {
		return Message(Alive, "Incarnation", incarnation, "Node", victim, "Addr", Victim(), "Port", 7946, "Meta", []byte{1}, "Vsn", Versions())
	}
	moved := Attack{Name: "moved after a forged farewell", Plausible: true}
	for i := range 20 { // members handle these in an order of their own
		moved.Packets = append(moved.Packets,
			Message(Dead, "Incarnation", likely+i, "Node", victim, "From", victim),
			Message(Alive, "Incarnation", likely+i+1, "Node", victim, "Addr", Attacker(), "Port", 443, "Meta", []byte{1}, "Vsn", Versions()))
	}
	return []Attack{
		forGood("dead for good", Dead, other, 2),
		forGood("left for good", Dead, victim, 3),
		forGood("suspect for good", Suspect, other, 1),
		{
			Name: "rewritten for good", Packets: [][]byte{rewritten(never)},
			Streams: [][]byte{Exchange(1, State(victim, Victim(), nil, Versions(), never, 0))},
		},
		{Name: "rewritten", Plausible: true, Packets: [][]byte{rewritten(likely)}},
		{Name: "dead", Plausible: true, Packets: [][]byte{Message(Dead, "Incarnation", likely, "Node", victim, "From", other)}},
		{Name: "forged farewell", Plausible: true, Packets: [][]byte{Message(Dead, "Incarnation", likely, "Node", victim, "From", victim)}},
		moved,
	}
}

// intruders are members that no honest process could be.
func intruders() []Attack {
	x := func(name string, addr []byte, port int, meta, versions []byte) []byte {
		return Message(Alive, "Incarnation", 1, "Node", name, "Addr", addr, "Port", port, "Meta", meta, "Vsn", versions)
	}
	state := func(meta, versions []byte, state int) []byte {
		return Exchange(1, State("x", Attacker(), meta, versions, 1, state))
	}
	foreign := []byte{9, 9, 9, 9, 9, 9}
	good := Versions()
	return []Attack{
		{
			Name: "no versions", Streams: [][]byte{state(nil, nil, 0)},
			Packets: [][]byte{x("x", Attacker(), 1, nil, nil), x("x", Attacker(), 1, nil, good[:5])},
		},
		{Name: "foreign versions", Packets: [][]byte{x("x", Attacker(), 1, nil, foreign)}, Streams: [][]byte{state(nil, foreign, 0)}},
		{
			Name: "large record", Streams: [][]byte{state(make([]byte, 60<<10), good, 0)},
			Packets: [][]byte{x("x", Attacker(), 1, make([]byte, 8<<10), good), x("x", Attacker(), 1, make([]byte, 513), good)},
		},
		{Name: "odd state", Streams: [][]byte{state(nil, good, 4), state(nil, good, never)}},
		{Name: "odd members", Packets: [][]byte{
			x("", Attacker(), 1, nil, good),
			x(strings.Repeat("x", 1000), Attacker(), 1, nil, good),
			x("\x1b[2J", Attacker(), 1, nil, good),
			x("x", nil, 1, nil, good),
			x("x", make([]byte, 4), 1, nil, good),
			x("x", make([]byte, 9), 1, nil, good),
			x("x", []byte{224, 0, 0, 1}, 1, nil, good),
			x("x", Attacker(), 0, nil, good),
			x("x", Attacker(), 1<<16, nil, good),
		}},
	}
}

// floods cost others more than the sender.
func floods(victim string) []Attack {
	bomb := Squeeze(Squeeze(bytes.Repeat([]byte{Compressed}, 4<<20)))
	third := []any{"SourceAddr", Bystander(), "SourcePort", 53, "SourceNode", "x"}
	return []Attack{
		{Name: "bombs", Packets: [][]byte{bomb, Pack(bomb, bomb), Pack(Pack(bomb))}, Streams: [][]byte{bomb}},
		{Name: "a million members claimed", Streams: [][]byte{
			Exchange(1 << 20), Exchange(16384), Exchange(2, State("x", Attacker(), nil, Versions(), 1, 0)),
		}},
		{Name: "20 MiB claimed", Streams: [][]byte{
			Message(User, "UserMsgLen", 20<<20),
			{Encrypted, 0x01, 0x40, 0, 0, 1},
			Message(PushPull, "Nodes", 0, "UserStateLen", 20<<20, "Join", true),
			{PushPull, 0x81, 0xdb, 0x40, 0, 0, 0},
		}},
		{Name: "1 GiB compressed", Streams: [][]byte{{Compressed, 0x82, 0xa4, 'A', 'l', 'g', 'o', 0, 0xa3, 'B', 'u', 'f', 0xdb, 0x40, 0, 0, 0}}},
		{Name: "digests", Streams: [][]byte{
			{0xd0}, make([]byte, 1+256*8), append([]byte{0xd0}, make([]byte, 4<<20)...),
			{0xd1}, {0xd2}, {0xd2, PushPull}, append([]byte{0xd2}, Exchange(1<<20)...), append([]byte{0xd2, 0xd2}, Exchange(0)...), {0xd3, 0},
			append([]byte{0xd2}, Exchange(1, State("x", Attacker(), make([]byte, 513), Versions(), 1, 0))...),
			append([]byte{0xd2}, Exchange(1, State(victim, Attacker(), nil, Versions(), 60, 0))...),
			append([]byte{0xd2}, Exchange(1, State(victim, Victim(), nil, Versions(), never, 2))...),
		}},
		{
			Name:    "nothing",
			Packets: [][]byte{{}, {HasCRC}, {HasCRC, 0, 0, 0, 0}, {Compound}, {Compound, 0}, {Compound, 255}, {Labelled}, {Labelled, 0}, Pack(nil, nil)},
			Streams: [][]byte{{}, {Ping}, {PushPull}, {Labelled, 1}, {AckResp}, {ErrResp}},
		},
		{Name: "reflector", Packets: [][]byte{
			Message(Ping, append([]any{"SeqNo", 1, "Node", victim}, third...)...),
			Message(IndirectPing, append([]any{"SeqNo", 1, "Node", victim, "Target", Victim(), "Port", 7946, "Nack", true}, third...)...),
			Message(IndirectPing, "SeqNo", 1, "Node", "x", "Target", Bystander(), "Port", 53, "Nack", false,
				"SourceAddr", Attacker(), "SourcePort", 7946, "SourceNode", "x"),
		}},
	}
}

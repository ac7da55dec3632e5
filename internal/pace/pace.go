// Package pace has what decides how fast and how dear package discovery/gossip is at scale. It stands here so that the model of it in bench/gossipsim
// is one of the same protocol: a number that is changed here changes both.
package pace

import (
	"time"

	"github.com/hashicorp/memberlist"
)

// Defaults of gossip.Config.
const (
	SuspectTTL     = time.Minute
	RejoinInterval = 10 * time.Second
	// ProbeInterval decides how soon a crash is known. When a member is first probed is chance, and the slowest of many crashes what counts: of 50 among
	// 990 to 1,040 modelled members it was known to 99 % after 3.1 to 4.2 s in six runs; with 350 ms after 3.9 to 4.6 s; with 400 ms after 4.2 to 6.0 s,
	// and after 5.9 s among 1,000 real ones.
	ProbeInterval  = 300 * time.Millisecond
	GossipInterval = 100 * time.Millisecond
	SyncInterval   = 30 * time.Second
	JoinTimeout    = 3 * time.Second
)

// What an operator may set ProbeInterval to.
const (
	MinProbeInterval = 100 * time.Millisecond
	MaxProbeInterval = time.Minute
)

// Joining.
const (
	// Fanout is how many seeds, and how many remembered peers, are tried at one time.
	Fanout = 3
	// FirstRejoin is the time to the second attempt of a member that has reached nobody; it doubles up to RejoinInterval.
	FirstRejoin = 100 * time.Millisecond
	// MaxPeers bounds how many peers are remembered; those seen last are kept.
	MaxPeers = 256
	// DialTimeout bounds connecting to who may be gone. It leaves room for the first packet to be lost twice.
	DialTimeout = 3400 * time.Millisecond
)

// Comparing with a random member what both have heard.
const (
	// FirstSync is what part of SyncInterval the first one comes after; the time doubles.
	FirstSync = 30
	// ManyArrivals is which part of all has joined or come back when it begins anew with FirstSync: after a partition it is as after the start.
	ManyArrivals = 10
	// SmallPool is a pool with fewer others than that, where SmallSync is the part of SyncInterval that the time stays at.
	SmallPool = 50
	SmallSync = 3
	// Buckets is how many parts of what is known are compared, and DigestSize the bytes that sum one up.
	Buckets    = 256
	DigestSize = 8
)

// Patience is how many times the SuspectTTL endpoints are kept when dropping them would leave a
// service with less than half of what it had: stale beats empty, since more likely it is we who
// are cut off.
const Patience = 10

// A withdrawal is said twice, and the others have PassOnRounds gossip rounds each to pass it on, before the goodbye replaces it in their
// queues too: whom only the goodbye reaches keeps the endpoints as suspects. (One of six members did in 2 to 16 of 100 runs of a test without
// that, in one of 130 to 200 with one withdrawal and four rounds, and in none of 800 like this.)
const (
	Withdrawals  = 2
	PassOnRounds = 2
	// LeavePatience bounds each wait until the others were told. It takes four gossip rounds; where the others leave at the same moment, as when all
	// is stopped, nobody is left to be told, and memberlist waits to the end.
	LeavePatience = time.Second
)

// What memberlist is told, where its defaults don't do for thousands of members.
const (
	// gossipNodes is how many members each round of news goes to.
	gossipNodes = 4
	// maxPacket bounds packets with news, in bytes. More than 255 messages would corrupt one, and the shortest takes 34.
	maxPacket = 8 << 10
	// suspicion is how many probe intervals, times the decimal logarithm of the number of members, a suspect has to
	// answer. With 2, memberlist does not wait for other members' word: that costs up to six times as long when most of those
	// who could give it are gone as well, and a wrong suspicion is a mark that the member itself wipes off.
	suspicion = 2
	// awareness bounds by how much a member slows its probes when many fail. That is meant for one that is starved itself;
	// when it is the others who are gone, each probe of them would take it four seconds.
	awareness = 4
)

// List returns memberlist's configuration, complete but for who and where the member is.
func List(probe, gossip time.Duration) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.ProbeInterval = probe
	c.ProbeTimeout = probe / 2
	c.GossipInterval = gossip
	c.GossipNodes = gossipNodes
	c.UDPBufferSize = maxPacket
	c.HandoffQueueDepth = 4096
	c.SuspicionMult = suspicion
	c.AwarenessMaxMultiplier = awareness
	c.GossipToTheDeadTime = 60 * probe
	c.PushPullInterval = 0      // members compare what they know in their own way
	c.EnableCompression = false // costs 100 µs a packet and saves nothing
	c.DNSConfigPath = ""        // seeds are resolved before
	return c
}

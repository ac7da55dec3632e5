// Package light is a model of the gossip of package discovery/gossip, for pools of which no machine at hand has the memory: all members are in one
// event loop, on a virtual clock, and what one knows of another takes four bytes.
//
// It is the same protocol as memberlist v0.7.0 and discovery/gossip have it, state by state: probes, direct, indirect and by stream, with nacks and
// awareness; suspicion; the queues of news, with the order, the number of repetitions and the room in packets; reaping; joining, remembered peers, full
// exchanges and comparisons by digest; withdrawals and goodbyes; what the pool keeps of the dead. How long, how many and how large stands in
// package pace, which the real one reads too. What is left out: that computing takes time, as in the simulation of real members; certificates;
// addresses that are taken over by another process; lies. Messages are counted with the size that they have.
package light

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/intramesh/mesh/internal/pace"
)

// Config says what pool to start; all fields are required.
type Config struct {
	Members    int
	Seeds      int           // the first members, which all others start with
	PerService int           // instances of a service
	Latency    time.Duration // of a packet, one way, at least; at most twice that
	Seed       uint64        // of what is random
	Whole      bool          // all know all from the start, instead of joining: that is most of the work in a large pool
}

// MaxMembers bounds a pool.
const MaxMembers = 30_000

// Traffic is what all members have sent so far.
type Traffic struct {
	Packets, Bytes, Streams int64 // packets with those that were lost; bytes with those of streams; streams that were opened
	Heard                   int64 // messages that arrived in packets
}

// A Pool is all the members. It is not safe for concurrent use.
type Pool struct {
	cfg                                                Config
	list                                               *memberlist.Config
	suspectTTL, patience, rejoinInterval, syncInterval time.Duration
	sizes                                              sizes
	lengths                                            [classes]int
	random                                             *rand.Rand

	now      time.Duration
	wheel    wheel
	procs    []*process // all that ever started, in this order
	members  []*process // those of now, by index
	services [][]uint16 // who ever announced it
	buckets  [pace.Buckets][]uint16
	traffic  Traffic
	loss     float64
	cut      int // members from this index on can't reach the others; 0 for none

	batches    [][]item // of packets on the way; the first one is not used
	free       []int32
	relays     []relay
	freeRelays []uint32

	// Scratch memory.
	sent []portion
	some []uint16
	told []uint16
}

// A process is one start of a member.
type process struct {
	id       uint16 // its place in procs
	index    int    // of the member
	bucket   uint8
	up       bool
	gone     bool // it has said goodbye
	joined   bool
	reached  bool // by the attempt to join that is under way
	ticking  bool // there are news to be sent
	pending  bool // its own word is among them
	started  time.Duration
	seeking  int           // attempts to reach somebody that are under way
	pause    time.Duration // to the next one, as long as it has not joined
	wait     time.Duration // to the next comparison
	syncs    uint32        // the number of that
	syncing  bool          // it is under way
	arrived  int           // others that joined or came back since the last one began
	streamed int64         // bytes sent on streams

	versions  []uint16 // what it announced, by incarnation
	announced uint16   // the last of these

	row               []word   // what it knows, by process
	nodes             []uint16 // of whom memberlist knows, in the order of its probes
	at                int      // the next one to probe
	awareness         int
	probe             probe
	queue             queue
	suspicions        line
	deaths            line // to be told nothing any more
	burials, kept     line // to be forgotten
	digest            [pace.Buckets]uint64
	usable, suspected int // endpoints that it knows of others
	living            int // others that it holds to live
	heldDead          int // others that hold it dead
	peers             []peerSeen
	failed            map[uint16]int // attempts to reach them
	lacks             []lacking
	lackSize          int
}

// New has all members start within the first second of the clock, or has started them if the pool is to be whole.
func New(cfg Config) (*Pool, error) {
	if cfg.Members < cfg.Seeds || cfg.Members > MaxMembers || cfg.Seeds < 1 || cfg.PerService < 1 || cfg.Latency <= 0 {
		return nil, fmt.Errorf("light: invalid pool: %+v", cfg)
	}
	p := &Pool{
		cfg: cfg, list: pace.List(pace.ProbeInterval, pace.GossipInterval),
		suspectTTL: pace.SuspectTTL, patience: pace.Patience * pace.SuspectTTL, rejoinInterval: pace.RejoinInterval, syncInterval: pace.SyncInterval,
		random:   rand.New(rand.NewPCG(cfg.Seed, 1)), //nolint:gosec // a simulated chance, which is to be repeatable
		services: make([][]uint16, (cfg.Members+cfg.PerService-1)/cfg.PerService), batches: make([][]item, 1),
	}
	if p.list.SuspicionMult > 2 {
		return nil, errors.New("light: members wait for each other's word before they hold a suspect dead, which is not modelled: SuspicionMult is larger than 2")
	}
	var err error
	if p.sizes, err = measure(); err != nil {
		return nil, err
	}
	p.lengths = [classes]int{announcement: p.sizes.alive[0], greeting: p.sizes.alive[1], accusation: p.sizes.accusation}
	for i := range cfg.Members {
		m := p.newProcess(i)
		p.members = append(p.members, m)
	}
	for _, m := range p.members {
		if cfg.Whole {
			p.beginWhole(m)
		} else {
			p.after(p.upTo(time.Second), event{kind: evStart, a: m.id})
		}
	}
	return p, nil
}

// beginWhole makes m what it is when all have joined and registered, and there is nothing more to say.
func (p *Pool) beginWhole(m *process) {
	const inc = 2
	m.row = make([]word, len(p.procs), p.room())
	m.up, m.joined, m.wait, m.pause = true, true, p.syncInterval, pace.FirstRejoin
	m.started = -p.upTo(p.list.ProbeInterval) / resolution * resolution
	m.versions, m.announced = append(m.versions, 1), 1
	m.nodes = make([]uint16, len(p.procs))
	for i, o := range p.procs {
		m.row[i], m.nodes[i] = about(alive, inc), o.id
		m.digest[o.bucket] += p.hash(o.id, inc)
	}
	p.shuffle(m.nodes)
	m.living, m.usable = len(p.procs)-1, len(p.procs)-1
	p.remember(m)
	p.after(m.nextTick(0, p.list.ProbeInterval), event{kind: evProbe, a: m.id})
	p.after(p.upTo(p.rejoinInterval), event{kind: evSeek, a: m.id})
	p.syncLater(m)
}

// room is for what a member knows, with some restarts.
func (p *Pool) room() int { return max(len(p.procs), p.cfg.Members+p.cfg.Members/20+2048) }

// newProcess makes a process that has not started yet.
func (p *Pool) newProcess(index int) *process {
	m := &process{id: narrow(len(p.procs)), index: index, bucket: uint8(p.random.UintN(pace.Buckets))} //nolint:gosec // there are 256
	m.versions = []uint16{announcesNothing, announcesNothing}
	p.procs = append(p.procs, m)
	p.buckets[m.bucket] = append(p.buckets[m.bucket], m.id)
	s := &p.services[index/p.cfg.PerService]
	*s = append(*s, m.id)
	return m
}

// begin is the start of a process.
func (p *Pool) begin(m *process) {
	m.row = make([]word, len(p.procs), p.room())
	m.up, m.started, m.pause = true, p.now, pace.FirstRejoin
	m.nodes = append(make([]uint16, 0, p.cfg.Members), m.id)
	p.setOwn(m, about(alive, 1))
	p.queueMessage(m, m.id, about(alive, 1))
	p.after(p.list.ProbeInterval, event{kind: evProbe, a: m.id})
	p.after(pace.JoinTimeout, event{kind: evTimeout, a: m.id})
	p.seek(m)
}

// narrow is for what [MaxMembers] bounds, restarts included.
func narrow(n int) uint16 {
	if n > subjectMask {
		panic("light: too many processes")
	}
	return uint16(n) //nolint:gosec // checked
}

func (p *Pool) upTo(d time.Duration) time.Duration {
	return time.Duration(p.random.Int64N(int64(d) + 1))
}

// delay is how long a packet takes, less half of what the resolution adds to it.
func (p *Pool) delay() time.Duration {
	return p.cfg.Latency + p.upTo(p.cfg.Latency) - min(resolution, p.cfg.Latency)/2
}

func (p *Pool) lose() bool { return p.loss > 0 && p.random.Float64() < p.loss }

func (p *Pool) isCut(a, b uint16) bool {
	return p.cut > 0 && (p.procs[a].index >= p.cut) != (p.procs[b].index >= p.cut)
}

// send sends a packet with so many bytes, before they are sealed.
func (p *Pool) send(e event, size int) {
	p.traffic.Packets++
	p.traffic.Bytes += int64(size + sealSize)
	if !p.procs[e.b].up || p.lose() || p.isCut(e.a, e.b) {
		if e.batch > 0 {
			p.freeBatch(e.batch)
		}
		return
	}
	p.after(p.delay(), e)
}

func (p *Pool) newBatch() int32 {
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b
	}
	p.batches = append(p.batches, nil)
	return int32(len(p.batches) - 1) //nolint:gosec // as many as are on the way
}

func (p *Pool) freeBatch(b int32) {
	p.batches[b] = p.batches[b][:0]
	p.free = append(p.free, b)
}

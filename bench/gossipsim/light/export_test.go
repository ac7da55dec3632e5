package light

import "fmt"

// Check returns an error unless what is counted as it changes is what counting yields.
func (p *Pool) Check() error {
	heldDead := make([]int, len(p.procs))
	for _, m := range p.procs {
		if !m.up {
			continue
		}
		usableNow, suspectedNow, living, known := 0, 0, 0, 0
		digest := [len(m.digest)]uint64{}
		for i, w := range m.row {
			id := narrow(i)
			if w.lives() {
				digest[p.procs[id].bucket] += p.hash(id, w.inc())
			}
			if w.known() {
				known++
			}
			if id == m.id {
				continue
			}
			if w.lives() {
				living++
			}
			switch p.view(id, w) {
			case usable:
				usableNow++
			case suspected:
				suspectedNow++
				heldDead[id]++
			}
		}
		if usableNow != m.usable || suspectedNow != m.suspected || living != m.living || known != len(m.nodes) || digest != m.digest {
			return fmt.Errorf("process %d: %d usable, %d suspected, %d living, %d known; counted as %d, %d, %d, %d, or the digest is wrong",
				m.id, usableNow, suspectedNow, living, known, m.usable, m.suspected, m.living, len(m.nodes))
		}
		items := 0
		for _, tier := range m.queue.tiers {
			for _, stack := range tier {
				items += len(stack)
			}
		}
		if items != m.queue.length {
			return fmt.Errorf("process %d: %d messages wait, counted as %d", m.id, items, m.queue.length)
		}
	}
	for id, m := range p.procs {
		if heldDead[id] != m.heldDead {
			return fmt.Errorf("process %d: held dead by %d, counted as %d", id, heldDead[id], m.heldDead)
		}
	}
	return nil
}

// Idle reports whether nothing is said or on its way.
func (p *Pool) Idle() bool {
	for _, m := range p.procs {
		if m.up && m.queue.length > 0 {
			return false
		}
	}
	return len(p.free) == len(p.batches)-1
}

// A Queue is that of one member among n others, who all have a record.
type Queue struct {
	p *Pool
	m *process
}

func NewQueue(n int) (*Queue, error) {
	p, err := New(Config{Members: n, Seeds: 1, PerService: 1, Latency: 1})
	if err != nil {
		return nil, err
	}
	for _, m := range p.procs {
		m.versions = make([]uint16, 1<<16)
		for i := range m.versions {
			m.versions[i] = 1
		}
	}
	m := p.procs[0]
	m.row, m.ticking = make([]word, n), true
	for i := range n {
		m.nodes = append(m.nodes, narrow(i))
	}
	return &Queue{p, m}, nil
}

// Add queues that a subject is alive, or suspect.
func (q *Queue) Add(subject int, lives bool, inc uint16) {
	w := about(suspect, inc)
	if lives {
		w = about(alive, inc)
	}
	q.m.row[subject] = w
	q.p.queueMessage(q.m, narrow(subject), w)
}

// Length is that of what Add queues.
func (q *Queue) Length(lives bool) int {
	if lives {
		return q.p.lengths[announcement]
	}
	return q.p.lengths[accusation]
}

// Take returns what goes into a packet, as subject and incarnation.
func (q *Queue) Take(room int) (sent [][2]int) {
	batch, _ := q.p.take(q.m, nil, room)
	for _, i := range batch {
		sent = append(sent, [2]int{int(i.subject()), int(i.about().inc())})
	}
	return sent
}

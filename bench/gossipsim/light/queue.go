package light

import "math"

// An item is a message that waits to be sent:
//
//	number 28 | subject 16 | incarnation 16 | state 3
//
// The number grows with each item that a member queues. Sent, the number is 0.
type item uint64

const (
	itemShift   = 35
	subjectMask = 1<<16 - 1
)

func newItem(number uint32, subject uint16, w word) item {
	return item(number)<<itemShift | item(subject)<<19 | item(w.inc())<<3 | item(w.state())
}

func (i item) subject() uint16 { return uint16(i >> 19 & subjectMask) }
func (i item) about() word     { return about(word(i&stateMask), uint16(i>>3&subjectMask)) }

// Classes are by length, the longest first: memberlist sends those first.
const (
	announcement = iota // alive, with a record that has an endpoint
	greeting            // alive, with one that has none
	accusation          // suspect, dead or left
	classes
)

// A queue is memberlist's TransmitLimitedQueue: what was sent least often goes first, of those the longest, of those the latest. What is out of
// date stays in it until it is its turn.
type queue struct {
	tiers  [][classes][]item // by how often they were sent; each by its number
	length int
	number uint32
}

func (q *queue) add(subject uint16, w word, class int) {
	if q.length == 0 || q.number == math.MaxUint32>>4 {
		q.number = 0
	}
	q.number++
	if len(q.tiers) == 0 {
		q.tiers = append(q.tiers, [classes][]item{})
	}
	q.tiers[0][class] = append(q.tiers[0][class], newItem(q.number, subject, w))
	q.length++
}

// class is that of the message that brings w about a subject.
func (p *Pool) class(subject uint16, w word) int {
	if w.state() != alive {
		return accusation
	}
	if kind(p.version(subject, w)) == 0 {
		return announcement
	}
	return greeting
}

// take appends to batch what memberlist would send in a packet with room for so many bytes, and returns the bytes used, each message with
// what a compound adds for it.
func (p *Pool) take(m *process, batch []item, room int) ([]item, int) {
	q := &m.queue
	if q.length == 0 {
		return batch, 0
	}
	limit, used := p.retransmits(len(m.nodes)), 0
	p.sent = p.sent[:0]
	for tier := 0; tier < len(q.tiers); tier++ {
		for class := range classes {
			stack, from := q.tiers[tier][class], len(batch)
			if len(stack) == 0 {
				continue
			}
			for len(stack) > 0 {
				top := stack[len(stack)-1]
				subject := top.subject()
				if m.row[subject]&sameMask != top.about() {
					stack = stack[:len(stack)-1]
					q.length--
					continue
				}
				size := p.lengths[class] + perPart
				if used+size > room {
					break
				}
				used += size
				stack = stack[:len(stack)-1]
				batch = append(batch, top)
			}
			q.tiers[tier][class] = shrink(stack)
			if len(batch) > from {
				p.sent = append(p.sent, portion{tier, class, from, len(batch)})
			}
		}
		if room-used < p.lengths[classes-1]+perPart {
			break
		}
	}
	for _, s := range p.sent {
		if s.tier+1 >= limit {
			q.length -= s.to - s.from
			for _, i := range batch[s.from:s.to] {
				if i.subject() == m.id {
					m.pending = false
				}
			}
			continue
		}
		if s.tier+1 == len(q.tiers) {
			q.tiers = append(q.tiers, [classes][]item{})
		}
		q.tiers[s.tier+1][s.class] = merge(q.tiers[s.tier+1][s.class], batch[s.from:s.to])
	}
	return batch, used
}

// A portion is of a batch: what was taken from one stack of a queue.
type portion struct{ tier, class, from, to int }

// merge puts items with descending numbers into a stack with ascending ones.
func merge(stack, items []item) []item {
	i, k := len(stack)-1, len(stack)+len(items)-1
	stack = append(stack, items...)
	for _, it := range items { // the largest first, into the end
		for i >= 0 && stack[i] > it {
			stack[k] = stack[i]
			i, k = i-1, k-1
		}
		stack[k] = it
		k--
	}
	return stack
}

// shrink gives the memory of a stack back that is mostly empty.
func shrink(stack []item) []item {
	switch {
	case len(stack) == 0:
		return nil
	case cap(stack) > 64 && len(stack) < cap(stack)/4:
		return append([]item(nil), stack...)
	}
	return stack
}

// retransmits is how often each message is sent (memberlist's retransmitLimit).
func (p *Pool) retransmits(n int) int {
	return p.list.RetransmitMult * int(math.Ceil(math.Log10(float64(n+1))))
}

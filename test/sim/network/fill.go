package network

// level is a link and the rate that a flow of weight 1 would get from it if it
// were the tightest link. It may be out of date: the true one is never
// lower.
type level struct {
	rate float64
	link *Link
}

// fill gives every flow its max-min fair rate: the link that leaves its flows
// the least gives them that, they are taken off the other links, and so on.
func (n *Network) fill() {
	n.heap = n.heap[:0]
	for _, l := range n.active {
		l.open, l.weight, l.spare = len(l.flows), 0, l.capacity
		for _, p := range l.flows {
			l.weight += p.flow.weight
		}
		n.heap = append(n.heap, level{l.spare / l.weight, l})
	}
	for i := len(n.heap)/2 - 1; i >= 0; i-- {
		n.sink(i)
	}
	for len(n.heap) > 0 {
		top := &n.heap[0]
		l := top.link
		if l.open > 0 {
			rate := max(l.spare, 0) / l.weight
			if rate > top.rate {
				top.rate = rate
				n.sink(0)
				continue
			}
			l.fix(rate)
		}
		last := len(n.heap) - 1
		n.heap[0] = n.heap[last]
		n.heap = n.heap[:last]
		n.sink(0)
	}
	for _, l := range n.active {
		l.free = max(l.spare, 0)
	}
}

// fix gives the link's flows without a rate this one, times their weights.
func (l *Link) fix(rate float64) {
	for _, p := range l.flows {
		f := p.flow
		if f.rate >= 0 {
			continue
		}
		f.rate = rate * f.weight
		for _, other := range f.links[:f.count] {
			other.spare -= f.rate
			other.weight -= f.weight
			other.open--
		}
	}
}

func (n *Network) sink(i int) {
	heap := n.heap
	if i >= len(heap) {
		return
	}
	e := heap[i]
	for {
		child := 2*i + 1
		if child >= len(heap) {
			break
		}
		if child+1 < len(heap) && heap[child+1].rate < heap[child].rate {
			child++
		}
		if heap[child].rate >= e.rate {
			break
		}
		heap[i] = heap[child]
		i = child
	}
	heap[i] = e
}

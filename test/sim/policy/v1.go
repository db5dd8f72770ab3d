package policy

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

// Dragonfly v1.0.6's limits.
const (
	v1Up            = 5
	v1Down          = 4
	v1CDN           = 4 // transfers of a task from the supernode
	v1MaxFailures   = 5 // in a row: of a client, then it has the supernode; of a server, then it is left out
	v1CDNIdle       = 30 * time.Second
	v1CDNCheckEvery = 2 * time.Second
)

// v1 is the rule of Dragonfly v1: the rarest piece, then the nearest to the
// centre of those running, from the first peer with a free slot, else from the
// supernode, which has at most four transfers a task. There are no leases: what
// is never reported keeps its slots. Only the supernode's are reset, when they
// have not changed for 30 s.
type v1 struct{ options Options }

func newV1(o Options) *v1 {
	if o.Up == 0 {
		o.Up = v1Up
	}
	if o.Down == 0 {
		o.Down = v1Down
	}
	return &v1{options: o}
}

func (v *v1) Name() string        { return "v1" }
func (v *v1) Hold() time.Duration { return 0 }

func (v *v1) PieceSize(length int64) int32 {
	const mib = 1 << 20
	if v.options.PieceSize > 0 {
		return v.options.PieceSize
	}
	return int32(min(4+max(length/(100*mib)-2, 0), 15)) * mib
}

func (v *v1) NewTask(info Info, random *rand.Rand) Task {
	return &v1Task{
		info: info, up: v.options.Up, down: v.options.Down, random: random,
		peers: make([]*v1Peer, info.Peers), pieces: make([]v1Piece, info.Pieces),
	}
}

type v1Task struct {
	info     Info
	up, down int
	random   *rand.Rand
	peers    []*v1Peer
	pieces   []v1Piece
	landed   int32 // pieces land in order
	cdn      int   // transfers
	cdnAt    time.Duration
	checked  time.Duration
	looked   Looked
	wanted   []int32
	free     []int32 // peers with a free slot for an upload, in no order
	pulls    []int   // peers that asked and have no answer
}

type v1Piece struct {
	length  int32
	holders []int32
}

type v1Peer struct {
	known    []bool // had, or about to be
	count    int32
	written  []bool
	running  map[int32]Source
	uploads  int
	free     int // its place in the task's list
	avoids   map[int32]bool
	failures int // its own, in a row
	serveRow int // of others with it, in a row
}

func (t *v1Task) Err() error     { return nil }
func (t *v1Task) Looked() Looked { return t.looked }

func (t *v1Task) AddPeer(peer int, _ time.Duration) {
	t.peers[peer] = &v1Peer{
		known: make([]bool, t.info.Pieces), written: make([]bool, t.info.Pieces), running: make(map[int32]Source),
		free: len(t.free),
	}
	t.free = append(t.free, int32(peer))
}

// slot changes the number of pieces that a peer sends.
func (t *v1Task) slot(peer int32, change int) {
	p := t.peers[peer]
	was := p.uploads < t.up
	p.uploads += change
	switch is := p.uploads < t.up; {
	case was && !is:
		last := t.free[len(t.free)-1]
		t.free[p.free], t.peers[last].free = last, p.free
		t.free = t.free[:len(t.free)-1]
	case !was && is:
		p.free = len(t.free)
		t.free = append(t.free, peer)
	}
}

func (t *v1Task) Started(int, time.Duration) {}
func (t *v1Task) Seen(int, time.Duration)    {}

func (t *v1Task) Got(peer int, num int32, now time.Duration) {
	p := t.peers[peer]
	if !p.written[num] {
		p.written[num] = true
		t.pieces[num].holders = append(t.pieces[num].holders, int32(peer))
	}
	t.SemiSuccess(peer, num, now)
}

func (t *v1Task) SemiSuccess(peer int, num int32, now time.Duration) {
	p := t.peers[peer]
	if p.known[num] {
		return
	}
	p.known[num] = true
	p.count++
	from, running := p.running[num]
	if !running {
		return
	}
	t.end(p, num, now)
	if !from.IsCDN() {
		p.failures, t.peers[from].serveRow = 0, 0
	}
}

func (t *v1Task) end(p *v1Peer, num int32, now time.Duration) {
	from, running := p.running[num]
	if !running {
		return
	}
	delete(p.running, num)
	if from.IsCDN() {
		t.cdn, t.cdnAt = max(t.cdn-1, 0), now
		return
	}
	t.slot(int32(from), -1)
}

func (t *v1Task) Failed(peer int, num int32, from Source, now time.Duration) {
	p := t.peers[peer]
	if p.known[num] {
		return
	}
	t.end(p, num, now)
	if from.IsCDN() {
		return
	}
	if p.avoids == nil {
		p.avoids = make(map[int32]bool)
	}
	p.avoids[int32(from)] = true
	p.failures++
	t.peers[from].serveRow++
}

func (t *v1Task) Offer(peer int, now time.Duration) ([]Offer, Idle) {
	p := t.peers[peer]
	t.looked.Choices++
	nums := t.sorted(p)
	if len(nums) == 0 {
		return nil, Wait
	}
	if len(p.running) >= t.down {
		return nil, Nothing
	}
	var offers []Offer
	for _, num := range nums {
		from, found := t.source(p, num, now)
		if !found {
			continue
		}
		p.running[num] = from
		offers = append(offers, Offer{Num: num, Length: t.pieces[num].length, From: from})
		if len(p.running) >= t.down {
			break
		}
	}
	return offers, Wait
}

// sorted are the pieces that p may be given, in their order.
func (t *v1Task) sorted(p *v1Peer) []int32 {
	centre, sum := int32(0), int32(0)
	for num := range p.running {
		sum += num
	}
	if len(p.running) > 0 {
		centre = sum / int32(len(p.running))
	}
	nums := t.wanted[:0]
	for num := range t.landed {
		if _, running := p.running[num]; !running && !p.known[num] {
			nums = append(nums, num)
		}
	}
	t.looked.Pieces += int64(len(nums))
	// The sort is stable, so that equal pieces are in random order.
	t.random.Shuffle(len(nums), func(i, j int) { nums[i], nums[j] = nums[j], nums[i] })
	slices.SortStableFunc(nums, func(a, b int32) int {
		return cmp.Or(
			cmp.Compare(len(t.pieces[a].holders), len(t.pieces[b].holders)),
			cmp.Compare(max(a-centre, centre-a), max(b-centre, centre-b)),
		)
	})
	t.wanted = nums
	return nums
}

func (t *v1Task) source(p *v1Peer, num int32, now time.Duration) (Source, bool) {
	if p.failures <= v1MaxFailures {
		if from, found := t.holder(p, num); found {
			return from, true
		}
	}
	if t.cdn >= v1CDN {
		return 0, false
	}
	t.cdn, t.cdnAt = t.cdn+1, now
	return CDN(0), true
}

// holder finds a peer with a free slot. The original walks a map of the holders,
// so where it begins is random. Walking all that have a slot free gives the
// same, and is shorter when nearly none has.
func (t *v1Task) holder(p *v1Peer, num int32) (Source, bool) {
	list := t.pieces[num].holders
	if len(t.free) < len(list) {
		list = t.free
	}
	if len(list) == 0 {
		return 0, false
	}
	first := t.random.IntN(len(list))
	for i := range list {
		t.looked.Holders++
		id := list[(first+i)%len(list)]
		h := t.peers[id]
		if h == p || h.uploads >= t.up || !h.written[num] || p.avoids[id] || h.serveRow >= v1MaxFailures {
			continue
		}
		t.slot(id, 1)
		return Source(id), true
	}
	return 0, false
}

// HoldPull and the following functions queue the pulls that have come: each is answered
// when it is tried, as none is held.
func (t *v1Task) HoldPull(peer int, _ time.Duration) { t.pulls = append(t.pulls, peer) }

func (t *v1Task) Next(time.Duration) (peer int, ok bool) {
	if len(t.pulls) == 0 {
		return 0, false
	}
	peer, t.pulls = t.pulls[0], t.pulls[1:]
	return peer, true
}

func (t *v1Task) Denied(int, time.Duration) {}
func (t *v1Task) Release(int)               {}

func (t *v1Task) Again(int, time.Duration) []Offer { return nil }
func (t *v1Task) Undelivered(int, []Offer)         {}

func (t *v1Task) Finished(peer int) bool {
	return t.landed == t.info.Pieces && t.peers[peer].count == t.info.Pieces
}

func (t *v1Task) Attach(int) {}

func (t *v1Task) Landed(instance int, num, length int32, _ time.Duration) {
	if instance == 0 {
		t.pieces[num].length, t.landed = length, num+1
	}
}

func (t *v1Task) Whole(int) {}

func (t *v1Task) Tick(now time.Duration) {
	if now-t.checked < v1CDNCheckEvery {
		return
	}
	t.checked = now
	if now-t.cdnAt > v1CDNIdle {
		t.cdn = 0
	}
}

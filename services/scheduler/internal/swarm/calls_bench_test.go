package swarm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// BenchmarkOffer measures a choice in a swarm that is halfway: every peer has a
// third of the pieces, some peers have few and some most of them. With all slots
// of sources taken a choice finds nothing, as that of a pull that is held.
func BenchmarkOffer(b *testing.B) {
	for _, peers := range []int{100, 1_000, 10_000} {
		for _, pieces := range []int{50, 1_000} {
			s, ids := halfwaySwarm(b, pieces, peers)
			b.Run(fmt.Sprintf("peers=%d/pieces=%d/free", peers, pieces), func(b *testing.B) { benchmarkOffer(b, s, ids) })
			takeAllSlots(s)
			b.Run(fmt.Sprintf("peers=%d/pieces=%d/busy", peers, pieces), func(b *testing.B) { benchmarkOffer(b, s, ids) })
		}
	}
}

// benchmarkOffer makes choices and takes them back.
func benchmarkOffer(b *testing.B, s *Swarm, ids []string) {
	b.Helper()
	before, offered, i := s.Work(), 0, 0
	var took time.Duration
	for b.Loop() {
		id := ids[i%len(ids)]
		i++
		began := time.Now()
		offers := s.Offer(id, start)
		took += time.Since(began)
		offered += len(offers)
		s.Undelivered(id, offers)
	}
	work, n := s.Work(), float64(b.N)
	b.ReportMetric(float64(took.Nanoseconds())/n, "ns/choice")
	b.ReportMetric(float64(work.Pieces-before.Pieces)/n, "pieces/choice")
	b.ReportMetric(float64(work.Holders-before.Holders)/n, "holders/choice")
	b.ReportMetric(float64(offered)/n, "offers/choice")
}

// BenchmarkCall measures every call that a client, a CDN copy or the clock makes
// to a swarm that is halfway, all of whose sources are busy and all of whose peers
// have a pull that is held. What a call costs must depend neither on the number of
// peers nor, but for a bit for each, on that of pieces.
func BenchmarkCall(b *testing.B) {
	for _, pieces := range []int{50, 10_000} {
		for _, peers := range []int{100, 1_000, 10_000} {
			s, ids := halfwaySwarm(b, pieces, peers)
			takeAllSlots(s)
			for _, id := range ids {
				s.Hold(id, later)
			}
			answerHeld(s, start)
			for _, c := range calls {
				b.Run(fmt.Sprintf("%s/pieces=%d/peers=%d", c.name, pieces, peers), func(b *testing.B) {
					var took time.Duration
					i := 0
					for b.Loop() {
						p := s.peers[ids[i%len(ids)]]
						i++
						began := time.Now()
						c.call(b, s, p)
						answerHeld(s, start)
						took += time.Since(began)
						if c.undo != nil {
							c.undo(s, p)
						}
					}
					b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/call")
				})
			}
		}
	}
}

var calls = []struct {
	name string
	call func(b *testing.B, s *Swarm, p *Peer)
	undo func(s *Swarm, p *Peer)
}{
	{"pull", func(_ *testing.B, s *Swarm, p *Peer) { s.Hold(p.ID, later) }, nil},
	{"seen", func(_ *testing.B, s *Swarm, p *Peer) { _ = s.Seen(p.ID, start) }, nil},
	{"written", func(b *testing.B, s *Swarm, p *Peer) { report(b, s, p, true) }, unlearn},
	{"semisuccess", func(b *testing.B, s *Swarm, p *Peer) { report(b, s, p, false) }, unlearn},
	{"failed", func(b *testing.B, s *Swarm, p *Peer) {
		if num, misses := p.nextMissing(7, uint(len(s.pieces))); misses {
			_, _ = s.Failed(p.ID, int32(num), size, "unknown source", start)
		}
	}, nil},
	{"slotfreed", func(_ *testing.B, s *Swarm, p *Peer) {
		p.uploads--
		s.slotFreed(p)
	}, func(s *Swarm, p *Peer) {
		for t := range p.sending {
			s.endTransfer(t)
			s.Hold(t.to.ID, later)
		}
		p.uploads++
		s.updateIdle(p)
		answerHeld(s, start)
	}},
	{"registeragain", func(_ *testing.B, s *Swarm, p *Peer) { s.AddPeer(p.PeerInfo, start) }, nil},
	{"register", func(_ *testing.B, s *Swarm, _ *Peer) { s.AddPeer(peerInfo("new", 1), start) }, func(s *Swarm, _ *Peer) {
		s.removePeer(s.peers["new"])
	}},
	// All fallbacks are due, and the CDN has no capacity.
	{"tick", func(_ *testing.B, s *Swarm, _ *Peer) { s.Tick(start.Add(fallbackMax)) }, nil},
	{"landed", func(b *testing.B, s *Swarm, _ *Peer) {
		if err := s.Landed("cdn", 3, md5Of(3), size); err != nil {
			b.Fatal(err)
		}
	}, nil},
	{"need", func(_ *testing.B, s *Swarm, _ *Peer) { s.Need() }, nil},
	{"expire", func(_ *testing.B, s *Swarm, _ *Peer) { s.Expire(start, start) }, nil},
}

// reported is the piece that report reported last.
var reported int32

func report(b *testing.B, s *Swarm, p *Peer, isWritten bool) {
	b.Helper()
	reported = -1
	num, misses := p.nextMissing(11, uint(len(s.pieces)))
	if !misses {
		return
	}
	reported = int32(num)
	if err := s.received(p.ID, reported, size, start, isWritten); err != nil {
		b.Fatal(err)
	}
}

// unlearn takes back what report has done.
func unlearn(s *Swarm, p *Peer) {
	if reported < 0 {
		return
	}
	s.withdraw(p, reported)
	p.have.Clear(uint(reported))
	p.pieces--
	s.recount(p, start)
}

// takeAllSlots makes all sources and the CDN busy.
func takeAllSlots(s *Swarm) {
	for _, p := range s.peers {
		p.uploads += s.limits.Up
		s.updateIdle(p)
	}
	for sharesOf(s).NewTask().Take("cdn", start) && inFlight(s, "cdn") < wide {
	}
}

// mostHoldings bounds the pieces that all peers of a benchmark have together.
const mostHoldings = 2_000_000

func halfwaySwarm(b *testing.B, pieces, peers int) (*Swarm, []string) {
	b.Helper()
	s := newSwarm(b, pieces)
	ids := addPeers(s, peers, start)
	random := rand.New(rand.NewPCG(5, 6))
	share := min(1, 3*float64(mostHoldings)/float64(peers*pieces))
	for i, id := range ids {
		prove(s, id)
		s.peers[id].origin = resident          // it has what this swarm offered to it
		some := float64(i) / float64(len(ids)) // at the average 1/3
		for num := range int32(pieces) {
			if random.Float64() < some*some*share {
				written(b, s, id, start, num)
			}
		}
	}
	random.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return s, ids
}

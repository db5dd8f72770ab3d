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
			for _, p := range s.peers {
				p.uploads += s.limits.Up
			}
			for sharesOf(s).NewTask().Take("cdn", start) && inFlight(s, "cdn") < wide {
			}
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

func halfwaySwarm(b *testing.B, pieces, peers int) (*Swarm, []string) {
	b.Helper()
	s := newSwarm(b, pieces)
	ids := addPeers(s, peers, start)
	random := rand.New(rand.NewPCG(5, 6))
	for i, id := range ids {
		prove(s, id)
		s.peers[id].origin = resident          // it has what this swarm offered to it
		some := float64(i) / float64(len(ids)) // at the average 1/3
		for num := range int32(pieces) {
			if random.Float64() < some*some {
				written(b, s, id, start, num)
			}
		}
	}
	random.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return s, ids
}

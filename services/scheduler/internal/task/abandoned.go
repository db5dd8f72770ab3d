package task

import "time"

// abandonedTTL is how long a cancelled pull is kept after its deadline. Together
// with the time for which a pull is held this is about the timeout of a client.
const abandonedTTL = 2 * time.Second

// abandonedPulls holds the pull of each peer that was cancelled last before it was
// answered.
type abandonedPulls struct {
	byPeer map[string]*pull
	order  []*pull // by when they were cancelled
}

func newAbandonedPulls() abandonedPulls { return abandonedPulls{byPeer: make(map[string]*pull)} }

// add stores a pull, and deletes the oldest ones that have expired.
func (a *abandonedPulls) add(p *pull, now time.Time) {
	for len(a.order) > 0 && (a.byPeer[a.order[0].PeerID] != a.order[0] || expired(a.order[0], now)) {
		if first := a.order[0]; a.byPeer[first.PeerID] == first {
			delete(a.byPeer, first.PeerID)
		}
		a.order[0] = nil
		a.order = a.order[1:]
	}
	a.byPeer[p.PeerID] = p
	a.order = append(a.order, p)
}

// take removes and returns a peer's pull, or nil.
func (a *abandonedPulls) take(peerID string, now time.Time) *pull {
	p := a.byPeer[peerID]
	if p == nil {
		return nil
	}
	delete(a.byPeer, peerID)
	if expired(p, now) {
		return nil
	}
	return p
}

func expired(p *pull, now time.Time) bool { return now.Sub(p.until) > abandonedTTL }

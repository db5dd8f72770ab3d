package swarm

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bits-and-blooms/bitset"
)

// Copy is a CDN instance's copy of the task.
type Copy struct {
	// Instance is the CDN's member id.
	Instance string
	// ID is the name under which clients report pieces of this copy. Two
	// instances on one address have the same.
	ID string
	// IP, Port and Path are where the copy is served.
	IP   string
	Port int32
	Path string
	// Owner tells whether it is the copy that the others are made from.
	Owner bool
}

// cdnCopy is a copy and what is known of it.
type cdnCopy struct {
	Copy
	pieces *bitset.BitSet
	// transfers is the number of transfers that it is sending.
	transfers int
}

// copyFailures is what a peer remembers of a copy that failed it.
type copyFailures struct {
	pausedUntil time.Time // it is not taken from until then
	inRow       int       // failures in a row
}

// ErrNoCopy is a copy that was withdrawn, or never there.
var ErrNoCopy = errors.New("unknown CDN copy")

// SetCopy says that a copy serves from now on. Pieces have to land on it
// (again) before they are offered from there: even the same instance may have
// come back without what it had.
func (s *Swarm) SetCopy(c Copy) {
	if old := s.copyOf(c.Instance); old != nil {
		old.Copy, old.pieces = c, &bitset.BitSet{}
		return
	}
	s.copies = append(s.copies, &cdnCopy{Copy: c, pieces: &bitset.BitSet{}})
}

// DropCopy withdraws a copy: nothing more is offered from there, and what was
// on its way from it is given from elsewhere.
func (s *Swarm) DropCopy(instance string) {
	c := s.copyOf(instance)
	if c == nil {
		return
	}
	s.copies = slices.DeleteFunc(s.copies, func(other *cdnCopy) bool { return other == c })
	s.endTransfersIf(func(t *transfer) bool { return t.cdn == c })
}

// Copies are the copies that serve.
func (s *Swarm) Copies() []Copy {
	list := make([]Copy, len(s.copies))
	for i, c := range s.copies {
		list[i] = c.Copy
	}
	return list
}

// Need is what copies are needed for.
type Need struct {
	// Whole says that the result is known.
	Whole bool
	// Unfinished is the number of peers that are alive and lack pieces.
	Unfinished int
	// Copies is how many copies serve.
	Copies int
}

// Need tells what copies are needed for.
func (s *Swarm) Need() Need {
	return Need{Whole: s.result != nil, Unfinished: s.Unfinished(), Copies: len(s.copies)}
}

func (s *Swarm) copyOf(instance string) *cdnCopy {
	i := slices.IndexFunc(s.copies, func(c *cdnCopy) bool { return c.Instance == instance })
	if i < 0 {
		return nil
	}
	return s.copies[i]
}

// Landed says that a piece is on a copy. A piece of other content than before
// is ErrConflict; the owner's word counts more than what was known as long as
// no peer has anything of that.
func (s *Swarm) Landed(instance string, num int32, md5 string, length int32) error {
	c := s.copyOf(instance)
	if c == nil {
		return fmt.Errorf("piece %d at %s: %w", num, instance, ErrNoCopy)
	}
	if num < 0 || int(num) > len(s.pieces)+maxPiecesAhead {
		return fmt.Errorf("piece %d: %w", num, ErrNoPiece)
	}
	state := s.pieceAt(num)
	if state.md5 != "" && (state.md5 != md5 || state.length != length) {
		if !c.Owner || s.VersionInUse() {
			return fmt.Errorf("piece %d has md5 %s after %s: %w", num, md5, state.md5, ErrConflict)
		}
		s.discardVersion(c)
		return s.Landed(instance, num, md5, length)
	}
	if state.md5 == "" {
		s.changes.addPiece(num)
	}
	state.md5, state.length = md5, length
	c.pieces.Set(uint(num))
	return nil
}

// maxPiecesAhead bounds how far ahead of the others a piece may land, so that a
// wrong number cannot make the list of pieces huge.
const maxPiecesAhead = 4096

// discardVersion forgets the version that was known, and every copy of it but c,
// whose pieces are of another one.
func (s *Swarm) discardVersion(c *cdnCopy) {
	s.pieces, s.result, s.offered = nil, nil, false
	s.changes.full = s.changes.enabled
	c.pieces = &bitset.BitSet{}
	s.copies = []*cdnCopy{c}
}

// VersionInUse tells whether any peer has a piece, or may have one by now: what was
// once offered may have arrived whatever was heard of it.
func (s *Swarm) VersionInUse() bool {
	if s.offered && len(s.peers) > 0 {
		return true
	}
	for _, p := range s.peers {
		if p.have.Any() {
			return true
		}
	}
	return false
}

// recordCopyFailure notes that a copy failed p.
func (p *Peer) recordCopyFailure(c *cdnCopy, now time.Time) {
	previous := p.copyFailures[c.Instance]
	pause := min(cdnPause<<min(previous.inRow, 10), cdnPauseMax)
	p.copyFailures[c.Instance] = copyFailures{pausedUntil: now.Add(pause), inRow: previous.inRow + 1}
}

// bestCopy is the copy that has the piece and failed p least, among equals
// the one with most budget left. It is nil when p had better wait for others.
func (s *Swarm) bestCopy(p *Peer, num int32, now time.Time) *cdnCopy {
	var best *cdnCopy
	var bestInRow int
	var bestUsed int64
	for _, c := range s.copies {
		failures := p.copyFailures[c.Instance]
		if !c.pieces.Test(uint(num)) || now.Before(failures.pausedUntil) {
			continue
		}
		used := s.budget.Used(c.Instance)
		if best == nil || failures.inRow < bestInRow || failures.inRow == bestInRow && used < bestUsed {
			best, bestInRow, bestUsed = c, failures.inRow, used
		}
	}
	if best == nil || now.Before(p.cdnOnlyUntil) || s.budget.Spare(best.Instance) || !s.expectedFromPeers(s.pieces[num], now) {
		return best
	}
	return nil
}

// expectedFromPeers tells whether a piece will be had from peers in a moment, because
// several began to fetch it just now.
func (s *Swarm) expectedFromPeers(state *pieceState, now time.Time) bool {
	n := 0
	for t := range state.transfers {
		if t.to.Port > 0 && now.Sub(t.started) < recentTransfer {
			n++
		}
	}
	return n >= parallelFetches
}

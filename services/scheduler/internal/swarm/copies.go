package swarm

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bits-and-blooms/bitset"
)

// Copy describes a CDN instance's copy of the task.
type Copy struct {
	// Instance is the CDN's member id.
	Instance string
	// ID identifies the copy in the reports of clients. Two instances on one
	// address have the same ID.
	ID string
	// IP, Port and Path are the address from which the copy is served.
	IP   string
	Port int32
	Path string
	// Owner is set for the copy of the CDN that owns the task, from which the
	// replicas are made.
	Owner bool
}

// cdnCopy is the state of a copy.
type cdnCopy struct {
	Copy
	pieces *bitset.BitSet
	// sending are the transfers from it, running counts those that are not overdue.
	sending map[*transfer]struct{}
	running int
	// pieceTime is how long a piece takes from it, rate what it sends of this task
	// when it is asked to, in bytes a second. It is kept while it sends nothing.
	pieceTime smoothed
	rate      float64
}

// observe weighs a measured rate in.
func (c *cdnCopy) observe(rate float64) {
	if c.rate == 0 {
		c.rate = rate
		return
	}
	c.rate += (rate - c.rate) / 4
}

// copyFailures counts a peer's consecutive failed downloads from a CDN copy.
type copyFailures struct {
	pausedUntil time.Time // the copy is not offered until then
	inRow       int       // number of consecutive failures
}

// ErrNoCopy is returned for a CDN copy that was withdrawn or never attached.
var ErrNoCopy = errors.New("unknown CDN copy")

// SetCopy adds or replaces a copy. It starts without pieces, even if the same
// instance had some before: the instance may have lost them, so each has to be
// reported with Landed again.
// It takes O(copies).
func (s *Swarm) SetCopy(c Copy) {
	if old := s.copyOf(c.Instance); old != nil {
		old.Copy, old.pieces = c, &bitset.BitSet{}
		return
	}
	s.copies = append(s.copies, &cdnCopy{Copy: c, pieces: &bitset.BitSet{}, sending: make(map[*transfer]struct{})})
}

// DropCopy withdraws a copy. Its transfers end, so that their pieces can be
// offered from another source.
// It takes O(t log n) for the t transfers from the copy.
func (s *Swarm) DropCopy(instance string) {
	c := s.copyOf(instance)
	if c == nil {
		return
	}
	s.copies = slices.DeleteFunc(s.copies, func(other *cdnCopy) bool { return other == c })
	s.endUploads(c.sending)
	if len(s.copies) == 0 { // peers that take from copies only take from peers now
		s.WakeAll()
	}
}

// Copies returns the copies that serve.
func (s *Swarm) Copies() []Copy {
	list := make([]Copy, len(s.copies))
	for i, c := range s.copies {
		list[i] = c.Copy
	}
	return list
}

// Need tells whether a task still needs CDN copies.
type Need struct {
	// Whole is set if the task has a result.
	Whole bool
	// Unfinished is the number of peers that have not left and miss pieces.
	Unfinished int
	// Copies is the number of copies that serve.
	Copies int
}

// Need returns whether the task still needs CDN copies.
// It takes constant time.
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

// Landed records that a copy has a piece. A piece with another checksum or
// length than before is refused with ErrConflict. There is one exception: if no
// peer can have a piece of the recorded version, the owner's piece starts a new
// version.
// It takes O(copies), with a new version O(peers + pieces) once.
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
		s.land(num)
	}
	state.md5, state.length = md5, length
	c.pieces.Set(uint(num))
	s.CapacityFreed()
	return nil
}

// maxPiecesAhead limits how far a piece number may lie beyond the known pieces,
// so that a wrong number cannot allocate a huge list.
const maxPiecesAhead = 4096

// discardVersion removes all pieces and the result of the recorded version. Only
// copy c remains, without pieces: it reports those of the new version.
func (s *Swarm) discardVersion(c *cdnCopy) {
	s.pieces, s.landed, s.available, s.result, s.offered = nil, 0, availability{}, nil, false
	s.changes.full = s.changes.enabled
	c.pieces = &bitset.BitSet{}
	s.copies = []*cdnCopy{c}
	s.recountAll()
}

// VersionInUse reports whether a peer has, or may have, a piece of the recorded
// version. An offered piece may have arrived even if no report says so.
// It takes constant time once a piece was offered, O(peers) before.
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

// recordCopyFailure pauses the copy for p.
func (p *Peer) recordCopyFailure(c *cdnCopy, now time.Time) {
	previous := p.copyFailures[c.Instance]
	pause := min(cdnPause<<min(previous.inRow, 10), cdnPauseMax)
	put(&p.copyFailures, c.Instance, copyFailures{pausedUntil: now.Add(pause), inRow: previous.inRow + 1})
}

// bestCopy returns the copy that has the piece, with capacity if any has, and
// failed p least; among equals that with the most capacity left. It is nil if p
// has to wait for all of them.
func (s *Swarm) bestCopy(p *Peer, num int32, now time.Time) (best *cdnCopy, free int) {
	var bestInRow int
	for _, c := range s.copies {
		failures := p.copyFailures[c.Instance]
		if !c.pieces.Test(uint(num)) || now.Before(failures.pausedUntil) {
			continue
		}
		left := s.capacity.Free(c.Instance, now)
		if best == nil || better(left, failures.inRow, free, bestInRow) {
			best, bestInRow, free = c, failures.inRow, left
		}
	}
	return best, free
}

// better reports whether a copy with a number of free transfers and of failures
// in a row is to be taken rather than another.
func better(free, inRow, otherFree, otherInRow int) bool {
	if (free > 0) != (otherFree > 0) {
		return free > 0
	}
	if inRow != otherInRow {
		return inRow < otherInRow
	}
	return free > otherFree
}

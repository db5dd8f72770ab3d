package replication

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

const (
	// maxMessageBytes is the maximum encoded size of a message. It is far below 4 MiB,
	// the default limit of a gRPC server, because one thing may be larger: the source
	// of a task (its headers and certificates), which is never split.
	maxMessageBytes = 1 << 20
	// envelopeBytes is what a message has beside its parts: the id of the scheduler, of
	// at most 255 bytes, the sequence number, and tags.
	envelopeBytes = 512
	// maxPartBytes is the maximum encoded size of a part with its tag and length.
	maxPartBytes = maxMessageBytes - envelopeBytes
)

// part is a part of an update: a protobuf message of bounded size. All parts of an
// update after the first one add to it.
type part struct {
	*schedulerv1.TaskMemory
	size int // encoded, without its tag and length
}

// header is what only the first part of a full update has.
type header struct {
	url    string
	source *cdnv1.Source
}

// splitUpdate converts an update to parts. The header is ignored unless the update is a
// full one. The peers that must be excluded come before the peers.
func splitUpdate(taskID string, h header, u swarm.Update) []part {
	first := &schedulerv1.TaskMemory{TaskId: taskID, Anew: u.Full}
	if u.Full {
		first.TaskUrl, first.Source = h.url, h.source
	}
	if f := u.Facts; f != nil {
		first.Facts = &cdnv1.SourceFacts{Length: f.Length, PieceSize: f.PieceSize, Etag: f.ETag, LastModified: f.LastModified}
	}
	if r := u.Result; r != nil {
		first.Result = &cdnv1.SeedResult{Md5: r.MD5, Length: r.Length, PieceCount: r.PieceCount}
	}
	s := splitter{taskID: taskID, parts: []part{{first, proto.Size(first)}}}
	for _, id := range u.Outdated {
		p := s.partFor(len(id))
		p.Outdated = append(p.Outdated, id)
	}
	for _, id := range u.Removed {
		p := s.partFor(len(id))
		p.Forgotten = append(p.Forgotten, id)
	}
	for _, update := range u.Pieces {
		piece := &cdnv1.Piece{Num: update.Num, Md5: update.MD5, Length: update.Length}
		p := s.partFor(proto.Size(piece))
		p.Pieces = append(p.Pieces, piece)
	}
	for _, update := range u.Peers {
		peer := peerProto(update)
		p := s.partFor(proto.Size(peer))
		p.Peers = append(p.Peers, peer)
	}
	return s.parts
}

// splitter builds the parts of an update.
type splitter struct {
	taskID string
	parts  []part // at least one
}

// partFor returns the part to which an element of the given encoded size is added. It
// starts another part if the element does not fit into the last one.
func (s *splitter) partFor(size int) *schedulerv1.TaskMemory {
	size = fieldSize(size)
	last := &s.parts[len(s.parts)-1]
	if fieldSize(last.size+size) > maxPartBytes {
		next := &schedulerv1.TaskMemory{TaskId: s.taskID}
		s.parts = append(s.parts, part{next, proto.Size(next)})
		last = &s.parts[len(s.parts)-1]
	}
	last.size += size
	return last.TaskMemory
}

// fieldSize returns the encoded size of a field whose value has a length, such as a
// string or a message. All such fields have numbers below 16, so a tag is one byte.
func fieldSize(length int) int { return 1 + protowire.SizeBytes(length) }

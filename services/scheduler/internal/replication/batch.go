package replication

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
)

// maxMessageIDs is the maximum number of deleted or released tasks in a message. Each
// takes 66 bytes.
const maxMessageIDs = 10_000

// batch gathers parts of tasks into messages.
type batch struct {
	stream *stream
	send   func(*schedulerv1.MirrorRequest) error
	next   *schedulerv1.MirrorRequest
	size   int // of the parts in next, encoded, in bytes
}

// add adds a part to the next message. It sends the message first if the part does not
// fit.
func (b *batch) add(p part) error {
	size := fieldSize(p.size)
	if b.next != nil && b.size+size > maxPartBytes {
		if err := b.flush(); err != nil {
			return err
		}
	}
	if b.next == nil {
		b.next = &schedulerv1.MirrorRequest{}
	}
	b.next.Tasks = append(b.next.Tasks, p.TaskMemory)
	b.size += size
	return nil
}

// flush sends the next message, if it has any parts.
func (b *batch) flush() error {
	if b.next == nil {
		return nil
	}
	m := b.next
	b.next, b.size = nil, 0
	return b.sendMessage(m)
}

// sendMessage assigns a sequence number to a message and sends it.
func (b *batch) sendMessage(m *schedulerv1.MirrorRequest) error {
	r := b.stream.replicator
	m.SchedulerId, m.Seq = r.SelfID, b.stream.nextSeq(len(m.GetTasks())+len(m.GetGone())+len(m.GetReleased()))
	r.sent.Inc()
	r.bytes.Add(float64(proto.Size(m)))
	if err := b.send(m); err != nil {
		return fmt.Errorf("sending updates to the standby: %w", err)
	}
	return nil
}

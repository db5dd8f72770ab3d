package replication

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
)

// batch gathers parts into messages.
type batch struct {
	stream *stream
	send   func(*schedulerv1.MirrorRequest) error
	next   *schedulerv1.MirrorRequest
	size   int
}

func (b *batch) add(part *schedulerv1.TaskMemory) error {
	size := proto.Size(part)
	if b.size > 0 && b.size+size > maxMessageBytes {
		if err := b.flush(); err != nil {
			return err
		}
	}
	if b.next == nil {
		b.next = &schedulerv1.MirrorRequest{}
	}
	b.next.Tasks = append(b.next.Tasks, part)
	b.size += size
	return nil
}

// flush sends what was gathered.
func (b *batch) flush() error {
	if b.next == nil {
		return nil
	}
	m := b.next
	b.next, b.size = nil, 0
	return b.sendMessage(m)
}

func (b *batch) sendMessage(m *schedulerv1.MirrorRequest) error {
	r := b.stream.replicator
	m.SchedulerId, m.Seq = r.SelfID, b.stream.nextSeq(len(m.GetTasks())+len(m.GetGone())+len(m.GetReleased()))
	r.sent.Inc()
	r.bytes.Add(float64(proto.Size(m)))
	if err := b.send(m); err != nil {
		return fmt.Errorf("telling a standby: %w", err)
	}
	return nil
}

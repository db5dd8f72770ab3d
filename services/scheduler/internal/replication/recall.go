package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
)

// recallTimeout bounds the question to a standby: a client waits for it.
const recallTimeout = 500 * time.Millisecond

// Recall asks the standby of a task what this scheduler had told it before it
// was restarted, and writes that into the book.
func (r *Replicator) Recall(ctx context.Context, taskID string, store *StandbyStore) error {
	to, ok := r.Standby(taskID)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, recallTimeout)
	defer cancel()
	conn, err := r.Dial(to.Endpoint)
	if err != nil {
		return fmt.Errorf("reaching a standby: %w", err)
	}
	stream, err := schedulerv1.NewSchedulerServiceClient(conn).Recall(ctx, &schedulerv1.RecallRequest{TaskId: taskID})
	if err != nil {
		return fmt.Errorf("asking a standby: %w", err)
	}
	all := schedulerv1.MirrorRequest{Released: []string{taskID}} // nobody tells of it on
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("asking a standby: %w", err)
		}
		if m := resp.GetMemory(); m.GetTaskId() == taskID {
			all.Tasks = append(all.Tasks, m)
		}
	}
	if err := Check(&all); err != nil {
		return fmt.Errorf("what a standby says: %w", err)
	}
	store.ApplyRecalled(taskID, &all, time.Now())
	return nil
}

package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
)

// recallTimeout bounds a recall. A client waits for it.
const recallTimeout = 500 * time.Millisecond

// Recall fetches the state that this scheduler replicated to a task's standby before it
// was restarted, and stores it in store. State that the standby does not send
// completely is dropped.
func (r *Replicator) Recall(ctx context.Context, taskID string, store *StandbyStore) error {
	to, ok := r.Standby(taskID)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, recallTimeout)
	defer cancel()
	conn, err := r.Dial(to.Endpoint)
	if err != nil {
		return fmt.Errorf("connecting to standby %s: %w", to.ID, err)
	}
	stream, err := schedulerv1.NewSchedulerServiceClient(conn).Recall(ctx, &schedulerv1.RecallRequest{TaskId: taskID})
	if err != nil {
		return fmt.Errorf("recalling task %s from standby %s: %w", taskID, to.ID, err)
	}
	// Released, because no stream sends further updates of the replica.
	all := schedulerv1.MirrorRequest{Released: []string{taskID}}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("recalling task %s from standby %s: %w", taskID, to.ID, err)
		}
		if m := resp.GetMemory(); m.GetTaskId() == taskID {
			all.Tasks = append(all.Tasks, m)
		}
	}
	if err := Check(&all); err != nil {
		return fmt.Errorf("checking the state of task %s from standby %s: %w", taskID, to.ID, err)
	}
	store.ApplyRecalled(taskID, &all, time.Now())
	return nil
}

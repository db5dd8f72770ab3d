// Package ids is which names of tasks and peers a scheduler takes, from clients
// and from other schedulers alike. What is named is not looked for here.
package ids

import (
	"strings"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"
)

const maxPeer = 255

// CheckTask refuses what is no task id.
func CheckTask(taskID string) error {
	if err := taskid.Check(taskID); err != nil {
		return rpcerr.Invalid("task_id: %v", err)
	}
	return nil
}

// Check refuses what is no task id, or no peer id.
func Check(taskID, peerID string) error {
	if err := CheckTask(taskID); err != nil {
		return err
	}
	if peerID == "" || len(peerID) > maxPeer || strings.Contains(peerID, "/") || strings.Contains(peerID, "..") {
		return rpcerr.Invalid("peer id %.80q: want 1 to %d characters without / and ..", peerID, maxPeer)
	}
	return nil
}

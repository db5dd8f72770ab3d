// Package ids checks the ids of tasks and peers that a scheduler receives from clients
// and from other schedulers. It does not check whether the task or peer exists.
package ids

import (
	"strings"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"
)

// maxPeerID is the maximum length of a peer id, in bytes.
const maxPeerID = 255

// CheckTask returns INVALID_ARGUMENT if taskID is not a task id.
func CheckTask(taskID string) error {
	if err := taskid.Check(taskID); err != nil {
		return rpcerr.Invalid("task_id: %v", err)
	}
	return nil
}

// Check returns INVALID_ARGUMENT if taskID is not a task id or peerID is not a peer id.
func Check(taskID, peerID string) error {
	if err := CheckTask(taskID); err != nil {
		return err
	}
	if peerID == "" || len(peerID) > maxPeerID || strings.Contains(peerID, "/") || strings.Contains(peerID, "..") {
		return rpcerr.Invalid("peer id %.80q: want 1 to %d bytes without / and ..", peerID, maxPeerID)
	}
	return nil
}

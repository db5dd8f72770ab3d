package reconciler

import (
	"fmt"
	"slices"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// record is the registry's record of a task.
type record struct {
	id       task.ID
	url      string
	owner    string
	replicas []string
	epoch    int64
	revision int64
	facts    task.Facts
	status   task.Status
}

func fromProto(r *registryv1.TaskRecord) (record, error) {
	id, err := task.ParseID(r.GetTaskId())
	if err != nil {
		return record{}, fmt.Errorf("reading a record: %w", err)
	}
	rec := record{
		id: id, url: r.GetUrl(), owner: r.GetOwner(), replicas: r.GetReplicas(),
		epoch: r.GetEpoch(), revision: r.GetRevision(), status: statusOf(r.GetStatus()),
	}
	if r.GetPieceSize() > 0 {
		s := r.GetSource()
		rec.facts = task.Facts{
			Length: s.GetLength(), PieceSize: r.GetPieceSize(), ETag: s.GetEtag(), LastModified: s.GetLastModified(),
		}
	}
	return rec, nil
}

func statusOf(s registryv1.TaskStatus) task.Status {
	switch s {
	case registryv1.TaskStatus_TASK_STATUS_RUNNING:
		return task.Running
	case registryv1.TaskStatus_TASK_STATUS_SUCCESS:
		return task.Success
	case registryv1.TaskStatus_TASK_STATUS_FAILED:
		return task.Failed
	default:
		return task.Waiting
	}
}

// copies returns the CDNs that the record names, in the order in which they would become
// the owner.
func (r record) copies() []string {
	all := make([]string, 0, len(r.replicas)+1)
	if r.owner != "" {
		all = append(all, r.owner)
	}
	return append(all, r.replicas...)
}

func (r record) names(cdn string) bool { return r.owner == cdn || slices.Contains(r.replicas, cdn) }

// standing returns the standing of the CDN self to the task.
func (r record) standing(self string) task.Standing {
	return task.Standing{
		Epoch: r.epoch, Owner: r.owner, Mine: r.owner == self, URL: r.url, Facts: r.facts, Status: r.status,
		Others: slices.DeleteFunc(r.copies(), func(cdn string) bool { return cdn == self }),
	}
}

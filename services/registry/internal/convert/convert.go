// Package convert converts the registry's values to protobuf messages and back: for
// its RPCs, and for what it stores. Inside the registry only this package and package
// rpc use messages.
package convert

import (
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// RoleFrom returns the role in a message. It is empty if the role is unknown.
func RoleFrom(r registryv1.Role) record.Role {
	switch r {
	case registryv1.Role_ROLE_GATEWAY:
		return record.RoleGateway
	case registryv1.Role_ROLE_SCHEDULER:
		return record.RoleScheduler
	case registryv1.Role_ROLE_CDN:
		return record.RoleCDN
	case registryv1.Role_ROLE_REGISTRY:
		return record.RoleRegistry
	}
	return ""
}

// RoleTo returns the message of a role.
func RoleTo(r record.Role) registryv1.Role {
	switch r {
	case record.RoleGateway:
		return registryv1.Role_ROLE_GATEWAY
	case record.RoleScheduler:
		return registryv1.Role_ROLE_SCHEDULER
	case record.RoleCDN:
		return registryv1.Role_ROLE_CDN
	case record.RoleRegistry:
		return registryv1.Role_ROLE_REGISTRY
	}
	return registryv1.Role_ROLE_UNSPECIFIED
}

// MemberFrom returns the member in a message. Fields that the message does not have
// are empty.
func MemberFrom(m *registryv1.Member) record.Member {
	member := record.Member{
		Role: RoleFrom(m.GetRole()), ID: m.GetId(), Endpoint: m.GetEndpoint(),
		DownloadIP: m.GetDownloadIp(), DownloadPort: m.GetDownloadPort(),
		Zone: m.GetZone(), Capacity: m.GetCapacity(), Version: m.GetVersion(),
	}
	switch m.GetState() {
	case registryv1.MemberState_MEMBER_STATE_READY:
		member.State = record.StateReady
	case registryv1.MemberState_MEMBER_STATE_DRAINING:
		member.State = record.StateDraining
	}
	return member
}

// MemberTo returns the message of a member.
func MemberTo(m record.Member) *registryv1.Member {
	state := registryv1.MemberState_MEMBER_STATE_UNSPECIFIED
	switch m.State {
	case record.StateReady:
		state = registryv1.MemberState_MEMBER_STATE_READY
	case record.StateDraining:
		state = registryv1.MemberState_MEMBER_STATE_DRAINING
	}
	return &registryv1.Member{
		Id: m.ID, Role: RoleTo(m.Role), Endpoint: m.Endpoint,
		DownloadIp: m.DownloadIP, DownloadPort: m.DownloadPort,
		Zone: m.Zone, Capacity: m.Capacity, Version: m.Version, State: state,
	}
}

// StatusFrom returns the status in a message.
func StatusFrom(s registryv1.TaskStatus) record.Status {
	switch s {
	case registryv1.TaskStatus_TASK_STATUS_WAITING:
		return record.StatusWaiting
	case registryv1.TaskStatus_TASK_STATUS_RUNNING:
		return record.StatusRunning
	case registryv1.TaskStatus_TASK_STATUS_SUCCESS:
		return record.StatusSuccess
	case registryv1.TaskStatus_TASK_STATUS_FAILED:
		return record.StatusFailed
	}
	return record.StatusUnknown
}

// StatusTo returns the message of a status.
func StatusTo(s record.Status) registryv1.TaskStatus {
	switch s {
	case record.StatusWaiting:
		return registryv1.TaskStatus_TASK_STATUS_WAITING
	case record.StatusRunning:
		return registryv1.TaskStatus_TASK_STATUS_RUNNING
	case record.StatusSuccess:
		return registryv1.TaskStatus_TASK_STATUS_SUCCESS
	case record.StatusFailed:
		return registryv1.TaskStatus_TASK_STATUS_FAILED
	}
	return registryv1.TaskStatus_TASK_STATUS_UNSPECIFIED
}

// SourceFrom returns the source in a message, or nil if there is none.
func SourceFrom(s *registryv1.SourceIdentity) *record.Source {
	if s == nil {
		return nil
	}
	return &record.Source{Length: s.GetLength(), ETag: s.GetEtag(), LastModified: s.GetLastModified()}
}

// TaskFrom returns the record in a message.
func TaskFrom(t *registryv1.TaskRecord) record.Task {
	return record.Task{
		ID: t.GetTaskId(), URL: t.GetUrl(), Source: SourceFrom(t.GetSource()),
		PieceSize: t.GetPieceSize(), Status: StatusFrom(t.GetStatus()),
		Owner: t.GetOwner(), Replicas: t.GetReplicas(),
		Scheduler: t.GetScheduler(),
		Epoch:     t.GetEpoch(), Revision: t.GetRevision(),
	}
}

// TaskTo returns the message of a record.
func TaskTo(t record.Task) *registryv1.TaskRecord {
	message := &registryv1.TaskRecord{
		TaskId: t.ID, Url: t.URL, PieceSize: t.PieceSize, Status: StatusTo(t.Status),
		Owner: t.Owner, Replicas: t.Replicas, Scheduler: t.Scheduler,
		Epoch: t.Epoch, Revision: t.Revision,
	}
	if t.Source != nil {
		message.Source = &registryv1.SourceIdentity{
			Length: t.Source.Length, Etag: t.Source.ETag, LastModified: t.Source.LastModified,
		}
	}
	return message
}
